"""Run by another interpreter, with TensorFlow.

make_saved_model.py FOLDER FACTOR [unsafe|stateful]
"""

import sys
from pathlib import Path

import tensorflow as tf

TYPES = (
    tf.float32, tf.float64, tf.int32, tf.uint8, tf.int16, tf.int8, tf.string, tf.int64, tf.bool,
    tf.bfloat16, tf.uint16, tf.float16, tf.uint32, tf.uint64,
)  # fmt: skip


def tables(folder: Path) -> list[tf.lookup.StaticHashTable]:
    """Two tables from files, so that each must find its own."""
    made = []
    for name, words in (("animals.txt", "cat\ndog\n"), ("colours.txt", "red\ngreen\ncat\n")):
        file = folder.parent / name
        file.write_text(words)
        source = tf.lookup.TextFileInitializer(
            str(file), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER,
        )  # fmt: skip
        made.append(tf.lookup.StaticHashTable(source, -1))
    return made


class Model(tf.Module):
    def __init__(self, folder: Path, factor: float) -> None:
        super().__init__()
        self.factor = tf.Variable(factor)
        self.seen = tf.Variable(0.0)
        self.animals, self.colours = tables(folder)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="input_1")])
    def scale(self, input_1):
        return {"activation_49": input_1 * self.factor}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def look_up(self, words):
        return {
            "animal": self.animals.lookup(words),
            "colour": self.colours.lookup(words),
            "joined_bytes": tf.strings.join([words, words]),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        x = self.parsed(inputs)
        rows = tf.shape(inputs)[0]
        return {"scores": x * self.factor, "classes": tf.tile([["cat", "dög"]], [rows, 1])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs):
        return {"outputs": tf.reduce_sum(self.parsed(inputs), axis=1)}

    def parsed(self, examples):
        return tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([2], tf.float32)})["x"]

    @tf.function(
        input_signature=[tf.TensorSpec([None], each, name=f"x_{each.name}") for each in TYPES]
    )
    def same(self, *args):
        return {
            f"y_{each.name}": tf.identity(value) for each, value in zip(TYPES, args, strict=True)
        }

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def remember(self, x):
        return {"sum": self.seen.assign_add(x)}


class Reading(Model):
    """Another class: what is traced is saved, whether a signature names it or not."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def read(self, path):
        return {"content": tf.io.read_file(path)}


def main() -> None:
    folder, factor, extra = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    folder.parent.mkdir(parents=True, exist_ok=True)
    model = (Reading if extra == ["unsafe"] else Model)(folder, factor)
    signatures = {"serving_default": model.scale, "words": model.look_up, "types": model.same}
    signatures |= {"classify": model.classify, "regress": model.regress}
    if extra == ["unsafe"]:
        signatures["read"] = model.read
    if extra == ["stateful"]:
        signatures["remember"] = model.remember
    # Moved into place as a whole, for a server that looks at the folder.
    scratch = folder.with_name(f".{folder.name}")
    tf.saved_model.save(model, str(scratch), signatures=signatures)
    scratch.rename(folder)


main()
