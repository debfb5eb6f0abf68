"""The warning that says when something runs another way than expected."""


class BackendNotice(UserWarning):
    """Something runs another way than asked or expected; says why. Results are not affected."""
