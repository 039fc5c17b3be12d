"""Forged pickles in checkpoints: each tries to run something, or to take much memory or time."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forging import Forged, archive, called, hidden, index_of, named, stored, text, value, whole

from mbrec.checkpoint import folder

DCP = "torch.distributed.checkpoint."
Forge = Callable[[Path, Path], Any]


def payloads(marker: Path) -> dict[str, bytes]:
    """Return parts of pickles that make a file, if somebody lets them."""
    touch, make, name = f"touch {marker}", f"open({str(marker)!r}, 'w').close()", str(marker)
    path, system = called("pathlib", "PosixPath", name), named("os", "system")
    module, run = (
        named("builtins", "getattr") + b"(",
        text("system") + b"tR" + value((touch,)) + b"R",
    )
    return {
        "os.system": called("os", "system", touch),
        "posix.system": called("posix", "system", touch),
        "a name with dots": called(DCP + "metadata", "os.system", touch),
        "a name with dots in pathlib": called("pathlib", "os.system", touch),
        "a name with dots in torch": called("torch", "serialization.os.system", touch),
        "exec": called("builtins", "exec", make),
        "eval": called("builtins", "eval", make),
        "open": called("builtins", "open", name, "x"),
        "io.open": called("io", "open", name, "x"),
        "os.mkdir": called("os", "mkdir", name),
        "Path.touch": named("pathlib", "Path.touch") + path + b"\x85R",
        "subprocess.call": called("subprocess", "call", ["touch", name]),
        "subprocess.getoutput": called("subprocess", "getoutput", touch),
        "runpy": called("runpy", "_run_code", make, {}),
        "codecs.open": called("codecs", "open", name, "x"),
        "shutil.copy": called("shutil", "copy", __file__, name),
        "partial": named("functools", "partial") + b"(" + system + text(touch) + b"tR)R",
        "methodcaller": called("operator", "methodcaller", "touch") + path + b"\x85R",
        "attrgetter": called("operator", "attrgetter", "touch") + path + b"\x85R)R",
        "getattr": named("builtins", "getattr") + b"(" + path + text("touch") + b"tR)R",
        "import_module": module + called("importlib", "import_module", "os") + run,
        "__import__": module + called("builtins", "__import__", "os") + run,
        "after something good": called("os", "getcwd") + b"0" + called("os", "system", touch),
        "INST": b"(" + text(touch) + b"ios\nsystem\n",
        "OBJ": b"(" + named("subprocess", "Popen.__call__.__class__") + b"o",
        "torch.load": called("torch.serialization", "load", f"{marker}.pt", None, None),
        "a pickle in a pickle": called("pickle", "loads", whole(called("os", "system", touch))),
        "torch.storage": called("torch.storage", "_load_from_bytes", b"no file of torch"),
        "torch.hub": called("torch.hub", "load", str(marker.parent), "evil"),
        "webbrowser": called("webbrowser", "open", f"file://{marker}"),
    }


# Those of the above that need a file of their own, or more than is here, to make theirs.
NOT_ALONE = ("OBJ", "torch.load", "torch.storage", "torch.hub", "webbrowser")


def with_payload(name: str, wrap: Callable[[bytes], bytes]) -> Forge:
    def forge(source: Path, outside: Path) -> None:
        body = payloads(outside / "marker")[name]
        (source / folder.METADATA).write_bytes(whole(wrap(body)))

    return forge


def code() -> Iterator[Forged]:
    for name in payloads(Path("/nowhere")):
        yield Forged(f"an index that is {name}", "index", with_payload(name, lambda body: body))
        yield Forged(f"an index with {name}", "index", with_payload(name, hidden))


def tensors_with_code() -> Iterator[Forged]:
    def evil(name: str, **settings: Any) -> Forge:
        def blob(outside: Path) -> bytes:
            return archive(pickled=whole(payloads(outside / "marker")[name]), **settings)

        return stored(blob)

    for name in ("os.system", "exec", "a name with dots", "methodcaller", "a pickle in a pickle"):
        yield Forged(f"a tensor that is {name}", "tensors", evil(name))


class Odd:
    """A class of a test; pickled as `forged.Odd`."""


def set_on_class(module: str, name: str, attribute: str) -> bytes:
    """Return a part of a pickle that sets an attribute of a class, for the whole process."""
    return named(module, name) + b"N}" + text(attribute) + text("/tmp/elsewhere") + b"s\x86b"


def bomb() -> bytes:
    """Return a tuple of twice a tuple of twice ..., the hash of which takes 2 ** 60 steps."""
    return b")\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(60))


def pickles() -> Iterator[Forged]:
    size = named("torch", "Size")
    parts = {
        "NEWOBJ_EX": named(DCP + "metadata", "Metadata") + b")}\x92",
        "EXT1": b"\x82\x01",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "PERSID": b"Pos.system\n",
        "BINPERSID": text("os.system") + b"Q",
        "a place in the memo that takes 64 GiB": b"Nr\xff\xff\xff\xff",
        "100 GB of bytes": b"\x8e" + (100 << 30).to_bytes(8, "little"),
        "100 GB of a bytearray": b"\x96" + (100 << 30).to_bytes(8, "little"),
        "100 GB of text": b"\x8d" + (100 << 30).to_bytes(8, "little") + b"x",
        "a frame of 100 GB": b"\x95" + (100 << 30).to_bytes(8, "little") + b"N",
        "a number of 2 GB": b"\x8b\xff\xff\xff\x7f",
        "a tuple that is never hashed": b"}" + bomb() + b"Ns",
        "lists in lists": b"]" * 200_000 + b"a" * 199_999,
        "a size of a size": size + size + b"(K\x01t\x85R\x85R",
        "a layout of os.system": called("torch.serialization", "_get_layout", "os.system"),
        "another function of torch's": called("torch.serialization", "_get_restore_location", 1),
        "a module of torch's": named("torch", "_inductor"),
        "a class of a test": pickle.dumps(Odd())[2:-1],
        "a state of a class": named(DCP + "metadata", "TensorProperties") + b"(NNNNNtb",
        "a call of a type": named("torch", "float32") + b")R",
        "too little on the stack": b"R",
        "no end": b"(" * 10,
        "the attributes of a list": b"]N}" + text("append") + b"Ns\x86b",
    }
    for name, body in parts.items():
        yield Forged(f"an index that is {name}", "index", index_of(body))
        yield Forged(f"an index with {name}", "index", index_of(hidden(body + b"\x85")))
    for module, name in [("pathlib", "PosixPath"), (DCP + "filesystem", "_StorageInfo")]:
        for attribute in ("_str", "relative_path", "__fspath__"):
            body = hidden(set_on_class(module, name, attribute))
            yield Forged(f"an index that sets {name}.{attribute}", "index", index_of(body))
    yield Forged("an empty index", "index", lambda s, _: (s / folder.METADATA).write_bytes(b""))
