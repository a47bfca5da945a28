"""Types of options that click does not have."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import click


class Count(click.ParamType):
    """A positive whole number, also as 1e6."""

    name = "count"

    def convert(self, value, param, ctx):
        if isinstance(value, int):
            return value
        try:
            number = Decimal(value)
            if number == number.to_integral_value() and 1 <= number < 2**63:
                return int(number)
        except InvalidOperation:
            pass
        self.fail(f"{value!r} is not a positive whole number such as 250000 or 2.5e5", param, ctx)


class Bytes(click.ParamType):
    """An amount of memory."""

    name = "memory"

    def convert(self, value, param, ctx):
        from ..memory import parse_bytes

        try:
            return value if isinstance(value, int) else parse_bytes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
