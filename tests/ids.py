"""Names of test cases that are the same in every process."""

import re


def without_address(value):
    """What ``str`` says of a value, less where it lies in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
