"""Keeps a store right: withdraws and forgets documents, verifies what is stored, removes what is superseded."""
