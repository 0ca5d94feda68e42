"""What keeps a certificate from being made, read or denied. The operator reads the message."""


class CertificateRefused(Exception):
    """A line for each thing that is wrong: where, why, and what would be accepted."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
