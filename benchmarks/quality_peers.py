"""The peers of `benchmarks.quality`, in an environment of their own: ALS of `implicit`, SASRec of `rectools`.

Run by `benchmarks.quality` with a JSON of settings; imports nothing of this project. Input and output are .npz files:
in: `train_user`, `train_item`, `train_time`, the same of `eval_`, `asked` (users), `vectors` [P, 256]; out: `ranked`
int64 [U, n], the best items of every user asked that the user does not have, best first, padded with -1.
"""

import json
import sys
import warnings

import numpy as np
import scipy.sparse as sparse


def counts(user: np.ndarray, item: np.ndarray, users: int, items: int) -> sparse.csr_matrix:
    """How often every user has every item."""
    found = sparse.coo_matrix((np.ones(len(user), np.float32), (user, item)), (users, items)).tocsr()
    found.sum_duplicates()
    return found


def run_als(data, settings: dict, ranked: int) -> np.ndarray:
    """Fits on the training users, folds the others in: their factors from their own history, the items' fixed."""
    from implicit.als import AlternatingLeastSquares

    items = len(data["vectors"])
    _, row = np.unique(data["train_user"], return_inverse=True)
    matrix = counts(row, data["train_item"], row.max() + 1, items)
    matrix.data = np.log1p(matrix.data)
    model = AlternatingLeastSquares(
        factors=settings["factors"],
        regularization=settings["regularization"],
        alpha=settings["alpha"],
        iterations=settings["iterations"],
        random_state=settings["seed"],
        num_threads=1,
    )
    model.fit(matrix, show_progress=False)
    asked = data["asked"]
    place = np.searchsorted(asked, data["eval_user"])
    mine = counts(place, data["eval_item"], len(asked), items)
    seen = mine.copy()
    mine.data = np.log1p(mine.data)
    factors = np.asarray(model.recalculate_user(np.arange(len(asked)), mine))
    scores = factors @ np.asarray(model.item_factors).T
    scores[seen.nonzero()] = -np.inf
    best = np.argpartition(-scores, ranked, axis=1)[:, :ranked]
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
    return np.take_along_axis(best, order, 1)


def vector_item_net(vectors):
    """The library's kind of item net for vectors, float32 [P, D]; a class, made here since the library is optional."""
    import torch
    from rectools.models.nn.item_net import ItemNetBase

    class VectorItemNet(ItemNetBase):
        """A linear map of the same vectors that the other models are given."""

        def __init__(self, table: torch.Tensor, n_factors: int):
            super().__init__()
            self.register_buffer("table", table)
            self.linear = torch.nn.Linear(table.shape[1], n_factors)

        def forward(self, items: torch.Tensor) -> torch.Tensor:
            return self.linear(self.table[items.to(self.device)])

        @classmethod
        def from_dataset(cls, dataset, n_factors: int, dropout_rate: float, **kwargs):
            known = dataset.item_id_map.external_ids
            table = torch.zeros(len(known), vectors.shape[1])
            for place, item in enumerate(known):
                if not isinstance(item, str):  # the padding's name is a string
                    table[place] = vectors[int(item)]
            return cls(table, n_factors)

        @property
        def out_dim(self) -> int:
            return self.linear.out_features

    return VectorItemNet


def frame(data, name: str):
    """Interactions as the library takes them: those called `train`, or those called `eval`."""
    import pandas as pd
    from rectools import Columns

    return pd.DataFrame(
        {
            Columns.User: data[f"{name}_user"],
            Columns.Item: data[f"{name}_item"],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(data[f"{name}_time"], unit="ms"),
        }
    )


def run_sasrec(data, settings: dict, ranked: int) -> np.ndarray:
    """Trains on the training users; recommends to the others from their sequences."""
    import torch
    from pytorch_lightning import seed_everything
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel
    from rectools.models.nn.item_net import IdEmbeddingsItemNet

    torch.set_num_threads(1)
    seed_everything(settings["seed"], verbose=False)
    vectors = torch.from_numpy(data["vectors"].astype(np.float32))

    blocks = (IdEmbeddingsItemNet, vector_item_net(vectors)) if settings["vectors"] else (IdEmbeddingsItemNet,)
    model = SASRecModel(
        n_blocks=settings["blocks"],
        n_heads=settings["heads"],
        n_factors=settings["factors"],
        session_max_len=settings["length"],
        loss=settings["loss"],
        n_negatives=settings["negatives"],
        lr=settings["lr"],
        batch_size=settings["batch"],
        epochs=settings["epochs"],
        dropout_rate=settings["dropout"],
        deterministic=True,
        item_net_block_types=blocks,
    )
    model.fit(Dataset.construct(frame(data, "train")))
    asked = data["asked"]
    found = model.recommend(
        asked, Dataset.construct(frame(data, "eval")), k=ranked, filter_viewed=True, on_unsupported_targets="ignore"
    )
    out = np.full((len(asked), ranked), -1)
    place = np.searchsorted(asked, found[Columns.User].to_numpy())
    out[place, found[Columns.Rank].to_numpy() - 1] = found[Columns.Item].to_numpy()
    return out


def main() -> int:
    warnings.filterwarnings("ignore")
    source, target, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    data = dict(np.load(source))
    run = {"als": run_als, "sasrec": run_sasrec}[settings.pop("peer")]
    np.savez(target, ranked=run(data, settings, settings.pop("ranked")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
