"""Chat templates of the kinds that models bring, each with what it writes said once more by hand."""

from tokenizers import Tokenizer

from influence_assets.corpus.tokenization import Tokenization
from influence_assets.models.chat_templates import CHATML, ChatTemplate
from tests.corpus.small_tokenizers import END, byte_fallback, byte_level

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|user|>"]
SPECIAL += ["<|assistant|>", "<|system|>", "<|end|>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<bos>"]

UNMARKED = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role'])"
    " + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if loop.index0 >= messages | length - 2 %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""It leaves out all but the last two messages, so that no beginning of a conversation begins the whole."""


def chatml(messages):
    for m in messages:
        yield f"<|im_start|>{m['role']}\n", False
        yield m["content"] + "<|im_end|>", m["role"] == "assistant"
        yield "\n", False


def llama3(messages):
    yield "<bos>", False
    for m in messages:
        yield f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n", False
        yield m["content"].strip() + "<|eot_id|>", m["role"] == "assistant"


def mistral(messages):
    yield "<bos>", False
    for m in messages:
        if m["role"] == "user":
            yield f"[INST] {m['content']} [/INST]", False
        else:
            yield f" {m['content']}{END}", True


def gemma(messages):
    yield "<bos>", False
    for m in messages:
        yield f"<start_of_turn>{'model' if m['role'] == 'assistant' else m['role']}\n", False
        yield m["content"].strip() + "<end_of_turn>", m["role"] == "assistant"
        yield "\n", False


def phi3(messages):
    for m in messages:
        yield f"<|{m['role']}|>\n", False
        yield m["content"] + "<|end|>", m["role"] == "assistant"
        yield "\n", False
    yield END, False


KINDS = {
    "chatml": (CHATML, chatml),
    "chatml without marks": (UNMARKED, chatml),
    "llama 3": (LLAMA3, llama3),
    "mistral": (MISTRAL, mistral),
    "gemma": (GEMMA, gemma),
    "phi 3": (PHI3, phi3),
}


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<bos>", "eos_token": END}, "the model")


def tokenizers() -> dict[str, Tokenizer]:
    made = {"bytes": byte_level(), "words": byte_fallback()}
    for tokenizer in made.values():
        tokenizer.add_special_tokens([*SPECIAL, END])
    return made


def tokenization(tokenizer: Tokenizer, special_tokens: str = "text") -> Tokenization:
    number = tokenizer.token_to_id(END)
    return Tokenization(tokenizer, number, (), tokenizer.get_vocab_size(), special_tokens)
