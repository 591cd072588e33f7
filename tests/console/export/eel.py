"""Interpreter of JSFX, for tests: the part of EEL2 that the plug-ins use, translated into Python.

Comparisons, conditions and indices are as inexact as the language says: `==`, `!=` and conditions
take for equal what differs by less than 0.00001, and an index is rounded down after 0.00001 is
added. Operators bind as its reference lists them. A local variable that is read before it is set,
memory out of reach and whatever the translator does not know are errors.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 0.00001
_TOKEN = re.compile(
    r"\s*(?:(//[^\n]*)|(\d+\.?\d*|\.\d+)|([A-Za-z_$][\w.]*)"
    r"|(===|!==|==|!=|<=|>=|&&|\|\||<<|>>|[-+*/%&|~]=|[-+*/%^&|~<>=?:;,()\[\]!]))"
)
_COMMENT, _NUMBER, _NAME, _SIGN = 1, 2, 3, 4
# From the loosest to the tightest. Those of one row are taken from left to right.
_LEVELS = (
    ("||", "&&"),
    ("<", ">", "<=", ">=", "==", "!=", "===", "!=="),
    ("|", "&", "~"),
    ("+",),
    ("-",),
    ("*",),
    ("/",),
    ("<<", ">>"),
    ("%",),
    ("^",),
)
_BOUNDARY = 65_536


class Plugin:
    """A plug-in that runs.

    Attributes:
        values: its variables by name: sliders under their own names, and `pdc_delay`.
    """

    def __init__(self, text: str, sample_rate_hz: int, *, memory: int = 1 << 19) -> None:
        """Compile it, and start it with its sliders' first values."""
        head, sections = _sections(text)
        self.memory = [0.0] * memory
        self.sliders = dict(_sliders(head))
        self.values: dict[str, Any] = {
            **self.sliders,
            **_library(self.memory),
            **dict.fromkeys(("play_position", "spl0", "spl1"), 0.0),
            "srate": float(sample_rate_hz),
            "mem": self.memory,
        }
        code, names = _translated(sections)
        for name in names:
            self.values.setdefault(name, 0.0)
        exec(compile(code, "plug-in", "exec"), self.values)
        self._run("init")
        self._run("slider")

    def set(self, values: Mapping[str, float]) -> None:
        """Turn sliders."""
        assert values.keys() <= self.sliders.keys()
        self.values.update(values)
        self._run("slider")

    def process(
        self, audio_CT: NDArray[np.float64], position_s: float = 0.0
    ) -> NDArray[np.float64]:
        """Run one block of samples, that begins at a position of the song."""
        values, sample = self.values, self.values["section_sample"]
        values["play_position"] = position_s
        self._run("block")
        out_CT = np.empty_like(audio_CT)
        for place, (left, right) in enumerate(audio_CT.T.tolist()):
            values["spl0"], values["spl1"] = left, right
            sample()
            out_CT[0, place], out_CT[1, place] = values["spl0"], values["spl1"]
        return out_CT

    def _run(self, section: str) -> None:
        # A plug-in may leave sections out.
        if (run := self.values.get(f"section_{section}")) is not None:
            run()


def _sections(text: str) -> tuple[str, dict[str, str]]:
    head, *parts = re.split(r"^@(\w+)[^\n]*$", text, flags=re.MULTILINE)
    return head, dict(zip(parts[::2], parts[1::2], strict=True))


def _sliders(head: str) -> list[tuple[str, float]]:
    found = re.findall(r"^slider\d+:(\w+)=([-\d.]+)<([-\d.]+),([-\d.]+),", head, re.MULTILINE)
    assert len(found) == len(re.findall(r"^slider", head, re.MULTILINE))
    for _, value, low, high in found:
        assert float(low) <= float(value) <= float(high)
    return [(name, float(value)) for name, value, _, _ in found]


def _translated(sections: Mapping[str, str]) -> tuple[str, set[str]]:
    """Translate all sections; return the code and the names of what it sets for all to see."""
    functions: dict[str, int] = {}
    lines: list[str] = []
    names: set[str] = set()
    for section, text in sections.items():
        parser = _Parser(text, functions)
        parser.program()
        names |= parser.shared
        lines += [*parser.functions_code, *_function(f"section_{section}", [], parser.shared,
                                                     parser.lines)]  # fmt: skip
    return "\n".join(lines) + "\n", names


def _function(name: str, params: list[str], shared: set[str], body: list[str]) -> list[str]:
    head = [f"    global {', '.join(sorted(shared))}"] if shared else []
    return [f"def {name}({', '.join(params)}):", *head, *body, "    pass"]


class _Parser:
    """Translator of one section: statements are written as lines, values returned as text."""

    def __init__(self, text: str, functions: dict[str, int]) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._functions = functions
        self._private: set[str] = set()
        self._depth = 1
        self._count = 0
        self.shared: set[str] = set()
        self.lines: list[str] = []
        self.functions_code: list[str] = []

    def program(self) -> None:
        while self._peek() is not None:
            if self._peek() == "function":
                self._definition()
                self._skip_semicolons()
            else:
                self._statements(None)

    def _definition(self) -> None:
        self._take("function")
        name, params = self._take(), self._names()
        private = set(params)
        if self._peek() == "local":
            self._take("local")
            private |= set(self._names())
        outer = self.lines, self.shared, self._depth
        self.lines, self.shared, self._private, self._depth = [], set(), private, 1
        self._take("(")
        value = self._statements(")")
        self._take(")")
        self._write(f"return {value}")
        self.functions_code += _function(f"f_{name}", params,
                                         self.shared, self.lines)  # fmt: skip
        inner = self.shared
        self.lines, self.shared, self._depth = outer
        self.shared |= inner
        self._private = set()
        self._functions[name] = len(params)

    def _names(self) -> list[str]:
        self._take("(")
        found = []
        while self._peek() != ")":
            if self._peek() == ",":
                self._take()
            else:
                found.append(self._take())
        self._take(")")
        return found

    def _statements(self, end: str | None) -> str:
        """Translate statements up to an end; return the value of the last one."""
        value = "0.0"
        self._skip_semicolons()
        while self._peek() not in (end, None, "function"):
            value = self._expression()
            # What a call does is done even if nobody takes its value.
            if not re.fullmatch(r"\w+|[\d.]+", value):
                value = self._held(value)
            if self._peek() == ";":
                self._skip_semicolons()
            else:
                assert self._peek() == end, f"expected ; before {self._tokens[self._at :][:8]}"
        return value

    def _skip_semicolons(self) -> None:
        while self._peek() == ";":
            self._take()

    def _expression(self) -> str:
        value = self._binary(0)
        sign = self._peek()
        if sign == "?":
            return self._conditional(value)
        if sign == "=":
            self._take()
            self._write(f"{value} = {self._expression()}")
            return value
        if (
            sign is not None
            and len(sign) == 2
            and sign[1] == "="
            and sign not in ("==", "!=", "<=", ">=")
        ):
            self._take()
            new = _applied(sign[0], value, self._expression())
            self._write(f"{value} = {new}")
        return value

    def _conditional(self, condition: str) -> str:
        self._take("?")
        self._count += 1
        result = f"_t{self._count}"
        self._write(f"if {_truth(condition)}:")
        self._branch(result)
        self._write("else:")
        if self._peek() == ":":
            self._take()
            self._branch(result)
        else:
            self._write(f"    {result} = 0.0")
        return result

    def _branch(self, result: str) -> None:
        self._depth += 1
        self._write(f"{result} = {self._expression()}")
        self._depth -= 1

    def _binary(self, level: int) -> str:
        if level == len(_LEVELS):
            return self._unary()
        value = self._binary(level + 1)
        while (sign := self._peek()) in _LEVELS[level]:
            self._take()
            assert sign is not None
            num_lines = len(self.lines)
            other = self._binary(level + 1)
            assert sign not in ("&&", "||") or len(self.lines) == num_lines, "work behind && or ||"
            value = _applied(sign, value, other)
        return value

    def _unary(self) -> str:
        if self._peek() in ("-", "+", "!"):
            sign = self._take()
            value = self._unary()
            return f"(not {_truth(value)})" if sign == "!" else f"({sign}{value})"
        return self._indexed(self._primary())

    def _indexed(self, value: str) -> str:
        while self._peek() == "[":
            self._take()
            index = self._expression()
            self._take("]")
            value = f"mem[int({value} + {index} + {_TOLERANCE})]"
        return value

    def _primary(self) -> str:
        token = self._take()
        if token == "(":
            value = self._statements(")")
            self._take(")")
            return f"({value})"
        if token[0].isdigit() or token[0] == ".":
            number = float(token)
            return repr(int(number) if number.is_integer() else number)
        if token == "$pi":
            return repr(math.pi)
        assert re.fullmatch(r"\w+", token), f"unexpected {token!r}"
        if self._peek() != "(":
            return self._named(token)
        if token == "loop":
            return self._loop()
        if token == "while":
            return self._while()
        self._take("(")
        arguments = []
        while self._peek() != ")":
            arguments.append(self._expression())
            if self._peek() == ",":
                self._take()
        self._take(")")
        if token in self._functions:
            assert self._functions[token] == len(arguments), f"arguments of {token}"
            return f"f_{token}({', '.join(arguments)})"
        return f"{_BUILT_IN[token]}({', '.join(arguments)})"

    def _loop(self) -> str:
        self._take("(")
        self._write(f"for _ in range(int({self._held(self._expression())})):")
        self._take(",")
        self._body(")")
        return "0.0"

    def _while(self) -> str:
        self._take("(")
        self._write("while True:")
        self._depth += 1
        self._write(f"if not {_truth(self._expression())}: break")
        self._depth -= 1
        self._take(")")
        self._take("(")
        self._body(")")
        return "0.0"

    def _body(self, end: str) -> None:
        self._depth += 1
        self._statements(end)
        self._depth -= 1
        self._take(end)

    def _named(self, name: str) -> str:
        if name not in self._private:
            self.shared.add(name)
        return name

    def _held(self, value: str) -> str:
        """Compute a value here and now."""
        self._count += 1
        self._write(f"_t{self._count} = {value}")
        return f"_t{self._count}"

    def _write(self, line: str) -> None:
        self.lines.append("    " * self._depth + line)

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, expected: str | None = None) -> str:
        token = self._tokens[self._at]
        assert expected in (None, token), (
            f"expected {expected!r}, found {self._tokens[self._at :][:8]}"
        )
        self._at += 1
        return token


def _tokens(text: str) -> list[str]:
    place, found = 0, []
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        assert match is not None, f"unknown text: {text[place : place + 30]!r}"
        if match.lastindex != _COMMENT:
            # Names mean the same in capitals.
            found.append(match[match.lastindex or 0].lower())
        place = match.end()
    return found


def _applied(sign: str, value: str, other: str) -> str:
    if sign in ("&", "|", "<<", ">>", "~"):
        return f"(int({value}) {'^' if sign == '~' else sign} int({other}))"
    if sign in ("&&", "||"):
        return f"({_truth(value)} {'and' if sign == '&&' else 'or'} {_truth(other)})"
    if sign in ("==", "!="):
        return f"(abs({value} - {other}) {'<' if sign == '==' else '>='} {_TOLERANCE})"
    return {
        "===": f"({value} == {other})",
        "!==": f"({value} != {other})",
        "%": f"(int(abs({value})) % int(abs({other})))",
        "^": f"({value} ** {other})",
    }.get(sign, f"({value} {sign} {other})")


def _truth(value: str) -> str:
    return f"(abs({value}) >= {_TOLERANCE})"


_BUILT_IN = {
    **{name: name for name in ("abs", "min", "max")},
    **{name: f"b_{name}" for name in ("sin", "cos", "exp", "log", "log10", "sqrt", "floor")},
    **{name: f"b_{name}" for name in ("sqr", "sign", "memset", "memcpy", "convolve_c")},
    **{name: f"b_{name}" for name in ("fft", "ifft", "fft_permute")},
}


def _library(memory: list[float]) -> dict[str, Callable[..., Any]]:
    def memset(to: float, value: float, count: float) -> None:
        memory[int(to) : int(to) + int(count)] = [value] * int(count)

    def memcpy(to: float, source: float, count: float) -> None:
        apart = abs(int(to) - int(source)) >= int(count)
        assert apart, "regions that overlap"
        memory[int(to) : int(to) + int(count)] = memory[int(source) : int(source) + int(count)]

    def complex_at(place: float, count: float) -> NDArray[np.complex128]:
        start, stop = int(place), int(place) + 2 * int(count)
        assert start // _BOUNDARY == (stop - 1) // _BOUNDARY, "a transform across 65,536 items"
        return np.array(memory[start:stop]).view(np.complex128)

    def store(place: float, values: NDArray[np.complex128]) -> None:
        memory[int(place) : int(place) + 2 * len(values)] = values.view(np.float64).tolist()

    def order(count: int) -> NDArray[np.intp]:
        # Any order but the plain one will do: programs must not rely on it.
        bits = count.bit_length() - 1
        return np.array([int(f"{n:0{bits}b}"[::-1], 2) for n in range(count)])

    def fft(place: float, count: float) -> None:
        store(place, np.fft.fft(complex_at(place, count))[order(int(count))])

    def fft_permute(place: float, count: float) -> None:
        store(place, complex_at(place, count)[order(int(count))])

    def ifft(place: float, count: float) -> None:
        spectrum = complex_at(place, count)[order(int(count))]
        store(place, int(count) * np.fft.ifft(spectrum))

    def convolve(to: float, source: float, count: float) -> None:
        store(to, complex_at(to, count) * complex_at(source, count))

    return {
        **{f"b_{n}": getattr(math, n) for n in ("sin", "cos", "exp", "log", "log10", "sqrt")},
        "b_floor": math.floor,
        "b_sqr": lambda x: x * x,
        "b_sign": lambda x: float(x > 0) - float(x < 0),
        "b_memset": memset,
        "b_memcpy": memcpy,
        "b_fft": fft,
        "b_ifft": ifft,
        "b_fft_permute": fft_permute,
        "b_convolve_c": convolve,
    }
