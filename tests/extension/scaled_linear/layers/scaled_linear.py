"""A made-up kind of layer, added from this one file: y = s · (W x) + b with a fixed scale s."""

from influence_assets.models.layers.rule import FrozenMap, LayerRule, with_bias


class ScaledLinear(LayerRule):
    name = "scaled_linear"

    def covers(self, module):
        return type(module).__name__ == "ScaledLinear"  # code beside a model's weights gets a module name of its own

    def widths(self, module):
        d_out, width = module.weight.shape
        return d_out, width + 1

    def inputs(self, module, x):
        return with_bias((module.scale * x).flatten(0, 1), x.new_ones(x.shape[0] * x.shape[1])).view(*x.shape[:2], -1)

    def as_matrix(self, module, gradients):
        return with_bias(gradients["weight"], gradients["bias"])

    def frozen_map(self, module):
        return FrozenMap(module.scale * module.weight.T, module.bias)


LAYER_RULE = ScaledLinear()
