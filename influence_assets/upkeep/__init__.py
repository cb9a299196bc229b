"""Maintains a store: withdraws and forgets documents, verifies what is stored, removes what is superseded."""
