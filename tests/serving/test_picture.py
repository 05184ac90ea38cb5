"""JPEG and PNG bytes where a signature wants pictures."""

import io
import json

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image
from tests.support.onnx_models import identity_model
from tests.support.serving_core import served_core

from casemate.errors import MalformedError
from casemate.serving.tensorflow_api import TensorFlowApi
from casemate.serving.wire import tensorflow_serving_pb2 as wire


def api(base, picture, element=TensorProto.FLOAT):
    model = identity_model(element, ["n", 4, 6, 3], inputs=("pixels",))
    inputs = {"image": {"tensor": "pixels", "picture": picture}}
    document = {"format": 1, "signatures": {"serving_default": {"inputs": inputs}}}
    return TensorFlowApi(served_core(base, model, signatures=json.dumps(document)))


def encoded(form, size=(6, 4), color=(255, 102, 0)):
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, form)
    return content.getvalue()


def predict(served, *contents):
    request = wire.PredictRequest(model_spec={"name": "m"})
    tensor = request.inputs["image"]
    tensor.dtype = wire.DT_STRING
    tensor.tensor_shape.dim.add(size=len(contents))
    tensor.string_val.extend(contents)
    made = served.predict(request).outputs["pixels_out"]
    values = made.float_val or made.int_val
    return np.array(values, "<f4").reshape(-1, 4, 6, 3)


def test_pictures_become_the_models_values(tmp_path):
    served = api(tmp_path, {"scale": 1 / 255, "mean": [0, 0.4, 0], "std": [1, 1, 0.5]})

    pixels = predict(served, encoded("PNG"), encoded("JPEG", size=(60, 40)))

    assert pixels.shape == (2, 4, 6, 3)
    np.testing.assert_allclose(pixels[0], np.broadcast_to([1, 0, 0], (4, 6, 3)), atol=1e-6)
    np.testing.assert_allclose(pixels[1], pixels[0], atol=0.03)


def test_a_model_of_bytes_gets_bytes(tmp_path):
    served = api(tmp_path, {}, TensorProto.UINT8)
    assert predict(served, encoded("PNG"))[0, 0, 0].tolist() == [255, 102, 0]


def test_cropping_takes_the_middle_square(tmp_path):
    wide = Image.new("RGB", (30, 10), (0, 0, 0))
    wide.paste((200, 200, 200), (10, 0, 20, 10))
    content = io.BytesIO()
    wide.save(content, "PNG")

    pixels = predict(api(tmp_path, {"resize": "crop"}), content.getvalue())

    assert pixels.min() == 200


@pytest.mark.parametrize(
    "content", [b"", b"junk", encoded("PNG")[:40], encoded("BMP"), encoded("GIF")]
)
def test_what_is_no_picture_is_refused(tmp_path, content):
    with pytest.raises(MalformedError, match="JPEG or PNG"):
        predict(api(tmp_path, {}), content)


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("casemate.serving.picture.MAX_PIXELS", 23)
    with pytest.raises(MalformedError, match="at most 23 pixels"):
        predict(api(tmp_path, {}), encoded("PNG"))
