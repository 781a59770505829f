"""What contract B costs: Pillow's resize and an export of squares, against an export that resizes by itself.

    python benchmarks/whole.py [--model resnet18] [--size 224] [--pictures 375x500 1000x1500]

One picture at a time, of the sizes given, in ONNX Runtime and OpenVINO, with one thread; the ways take turns. Prints
one JSON document: milliseconds (median) of both ways, and how many times as long B takes.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from resvision import Classifier, Preprocess, api, deployed, measure, zoo
from resvision.models import ResNet
from resvision.runtime import using_threads

ROUNDS = 15


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--pictures", nargs="+", default=["375x500", "1000x1500"])
    options = parser.parse_args()
    torch.manual_seed(0)
    network = ResNet(zoo.get(options.model)).eval()
    classes = tuple(map(str, range(network.spec.num_classes)))
    classifier = Classifier(network=network, preprocess=Preprocess(size=options.size, crop=0.875), classes=classes)
    rows = []
    with using_threads(1), tempfile.TemporaryDirectory() as folder:
        for runtime in ("onnx", "openvino"):
            squares, whole = (
                deployed.load(api.export(classifier, runtime, contract=contract, out=Path(folder)).file)
                for contract in ("A", "B")
            )
            for size in options.pictures:
                height, width = map(int, size.split("x"))
                picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
                rows.append({"runtime": runtime, "picture": size, **compare(squares, whole, picture)})
    print(json.dumps({"model": options.model, "size": options.size, "rows": rows}, indent=2))


def compare(squares: deployed.Predictor, whole: deployed.Predictor, picture: np.ndarray) -> dict[str, float]:
    raced = measure.interleaved({"A": squares.predict, "B": whole.predict}, [picture] * ROUNDS)
    times = {name: 1000 * measure.median(taken) for name, taken in raced.items()}
    return {"a_ms": round(times["A"], 2), "b_ms": round(times["B"], 2), "ratio": round(times["B"] / times["A"], 2)}


if __name__ == "__main__":
    main()
