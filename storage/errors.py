"""What a person can mend, said in one sentence that names the thing, the place and the way out."""


class InputError(ValueError):
    """A dataset, model, store or query is not as it must be. The message says what, where, and what to do."""
