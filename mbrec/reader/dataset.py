"""What the data set itself knows: fills in what a schema leaves out, and loads vocabularies."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.columns.ids import is_text
from mbrec.columns.manifest import NAME, Column, Manifest, check_path
from mbrec.columns.schema import Categorical, Columns, Numerical, Transform
from mbrec.files import atomic
from mbrec.reader.content import Vocabulary
from mbrec.reader.source import Store, open_store

_AGREE = ("num_ids", "hash_size", "vocabulary", "boundaries", "salt", "embedding_dim")
_KINDS = ("cardinality", "hash_size", "vocabulary", "boundaries", "num_buckets")


def resolve(columns: Columns, manifest: Manifest | None, store: Store | None = None) -> Columns:
    """Return the schema with nothing left out.

    Cardinalities, quantiles, means and deviations come from the manifest, and are those of the
    training rows that it was written for. A resolved schema is what a run saves, so that its
    model is scored with the numbers it was trained with.

    Args:
        columns: the schema.
        manifest: of the data set, or None where it has none.
        store: the data set's folder, for the number of values in a vocabulary that the schema
            names; default: the manifest says it.

    Raises:
        ValueError: if a vocabulary lies outside of the folder; listing all that neither says, and
            features that share a table and differ.
    """
    known = {} if manifest is None else manifest.columns
    columns = _with_lengths(columns, store)
    problems: list[str] = []
    categorical = {
        name: _categorical(name, feature, columns, known, problems)
        for name, feature in columns.categorical.items()
    }
    numerical = {
        name: _numerical(name, feature, known, problems)
        for name, feature in columns.numerical.items()
    }
    if problems:
        hint = "the data set has no manifest.json" if manifest is None else "nor does manifest.json"
        raise ValueError(f"the schema does not say, {hint}: " + "; ".join(dict.fromkeys(problems)))
    resolved = replace(columns, categorical=categorical, numerical=numerical)
    _check_tables(resolved)
    return resolved


def _with_lengths(columns: Columns, store: Store | None) -> Columns:
    """Count the values of the vocabularies that the schema names."""
    counted: dict[str, Categorical] = {}
    for name, feature in columns.categorical.items():
        if (file := feature.vocabulary) is not None:
            # It is copied into the folder of the run, and must not end up beside it.
            check_path(file, f"vocabulary of '{name}'")
            if store is not None and feature.cardinality is None:
                counted[name] = replace(feature, cardinality=len(_load(file, store)))
    return replace(columns, categorical={**columns.categorical, **counted})


def load_vocabularies(columns: Columns, store: Store) -> dict[str, pa.Array]:
    """Return the values of each vocabulary that the schema names.

    Args:
        columns: the resolved schema.
        store: the data set's folder.

    Raises:
        ValueError: if a file is none, or does not have as many values as the feature has ids.
    """
    loaded: dict[str, pa.Array] = {}
    for name, feature in columns.categorical.items():
        if (file := feature.vocabulary) is None:
            continue
        if file not in loaded:
            loaded[file] = _load(file, store)
        if len(loaded[file]) != feature.num_ids:
            raise ValueError(
                f"{store.display(file)}: expected the {feature.num_ids:,} values of feature "
                f"'{name}', got {len(loaded[file]):,}"
            )
    return loaded


def identify_vocabularies(
    columns: Columns, vocabularies: Mapping[str, pa.Array]
) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint says of the vocabularies whose ids its model has learned.

    Args:
        columns: the resolved schema.
        vocabularies: from `load_vocabularies`.

    Returns:
        feature -> number and hash of the values; see `Vocabulary`.
    """
    found = {file: asdict(Vocabulary.of(values)) for file, values in vocabularies.items()}
    features = columns.categorical.items()
    return {name: found[f.vocabulary] for name, f in features if f.vocabulary is not None}


def check_vocabularies(
    columns: Columns, vocabularies: Mapping[str, pa.Array], learned: Mapping[str, Any], remedy: str
) -> list[str]:
    """Compare vocabularies with those whose ids a model has learned.

    Args:
        columns: the resolved schema.
        vocabularies: from `load_vocabularies`.
        learned: from `identify_vocabularies`, of the checkpoint.
        remedy: what to do about a difference.

    Returns:
        the features that the checkpoint says nothing of: new ones, or all of an earlier release.

    Raises:
        ValueError: naming each feature whose ids would mean other values.
    """
    problems, unknown = [], []
    for name, feature in columns.categorical.items():
        if feature.vocabulary is None:
            continue
        if name not in learned:
            unknown.append(name)
            continue
        known = Vocabulary.parse(learned[name])
        if difference := known.difference(vocabularies[feature.vocabulary]):
            problems.append(f"'{name}' ({feature.vocabulary}): {difference}")
    if problems:
        lines = "\n  ".join(problems)
        raise ValueError(
            "expected the vocabularies of the checkpoint, whose positions are the ids that the "
            f"model has learned, got others:\n  {lines}\n{remedy}"
        )
    return unknown


def describe_unknown(features: Sequence[str]) -> str:
    """Return what to say of features whose vocabularies a checkpoint of an earlier release has."""
    return (
        "the checkpoint is of an earlier release: whether the vocabularies are those that the "
        f"model has learned was not checked for {', '.join(features)}"
    )


def save_vocabularies(
    columns: Columns, store: Store, vocabularies: Mapping[str, pa.Array], folder: Path
) -> None:
    """Copy the vocabularies that the schema names to the same paths below another folder.

    Args:
        columns: the resolved schema.
        store: the data set's folder.
        vocabularies: from `load_vocabularies`.
        folder: of the run.

    Raises:
        ValueError: if there is another one already: the model there has learned its ids; or a link.
    """
    for file in dict.fromkeys(f.vocabulary for f in columns.categorical.values() if f.vocabulary):
        atomic.check_no_links(folder, file)
        target = folder / file
        if target.exists():
            there = _load(file, open_store(str(folder)))
            if difference := Vocabulary.of(there).difference(vocabularies[file]):
                raise ValueError(
                    f"{store.display(file)}: expected the vocabulary that the run began with, "
                    f"{target}, got another ({difference}); its values are the ids that the model "
                    "has learned: give the data that the run began with, or take a new run.name"
                )
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.filesystem.open_input_file(store.path(file)) as source:
            atomic.write_bytes(target, source.read())


def _load(file: str, store: Store) -> pa.Array:
    if store.is_local:
        store.check_links([file])
    try:
        with store.filesystem.open_input_file(store.path(file)) as source:
            content = source.read()
        _check_hash(file, content, store)
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{store.display(file)}: expected a vocabulary: {error}") from error
    if table.column_names != ["value"]:
        found = ", ".join(table.column_names)
        raise ValueError(f"{store.display(file)}: expected one column 'value', got {found}")
    values = table["value"].combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (pa.types.is_integer(values.type) or is_text(values.type)):
        raise ValueError(f"{store.display(file)}: expected integers or strings, got {values.type}")
    if values.null_count or len(values.unique()) != len(values):
        raise ValueError(f"{store.display(file)}: expected each value once, and no null")
    return values


def _check_hash(file: str, content: bytes, store: Store) -> None:
    known = store.manifest.files.get(file) if store.manifest else None
    if known is not None and hashlib.sha256(content).hexdigest() != known.sha256:
        raise ValueError(
            f"expected the content that {NAME} has the SHA-256 of, got another: the file is "
            "damaged, copy it again"
        )


def _categorical(
    name: str,
    feature: Categorical,
    columns: Columns,
    known: Mapping[str, Column],
    problems: list[str],
) -> Categorical:
    owner = columns.categorical.get(feature.table or name)
    if owner is not None and owner is not feature and not _says(feature):
        if owner.table not in (None, feature.table):
            raise ValueError(
                f"expected '{feature.table}', whose table '{name}' shares, to have one of its own, "
                f"got a feature that shares the table '{owner.table}'"
            )
        # A feature that shares a table, and says nothing else, is what the table's owner is.
        given = _categorical(feature.table or name, owner, columns, known, problems)
        same = {key: getattr(given, key) for key in _KINDS}
        dim = feature.embedding_dim or given.embedding_dim
        return replace(feature, **same, salt=feature.salt or given.salt, embedding_dim=dim)
    column = known.get(feature.column or name)
    if feature.num_buckets is not None and feature.boundaries is None:
        if column is None or not column.quantiles:
            problems.append(f"the quantiles of '{name}'")
            return replace(feature, num_buckets=None, cardinality=1)
        edges = _quantiles(column.quantiles, feature.num_buckets)
        return replace(feature, boundaries=edges, num_buckets=None)
    if feature.hash_size or feature.boundaries is not None or feature.cardinality:
        return feature
    if column is None or not column.cardinality:
        problems.append(f"the cardinality of '{name}'")
        return replace(feature, cardinality=1)
    vocabulary = feature.vocabulary or column.vocabulary
    return replace(feature, cardinality=column.cardinality, vocabulary=vocabulary)


def _says(feature: Categorical) -> bool:
    return any(getattr(feature, kind) is not None for kind in _KINDS)


def _quantiles(quantiles: list[float], buckets: int) -> list[float]:
    """Return rising boundaries between buckets of about equally many rows."""
    last = len(quantiles) - 1
    edges = {quantiles[round(last * bucket / buckets)] for bucket in range(1, buckets)}
    return sorted(edges)


def _numerical(
    name: str, feature: Numerical, known: Mapping[str, Column], problems: list[str]
) -> Numerical:
    if not feature.standardise:
        return feature
    column = known.get(feature.column or name)
    log1p = feature.transform is Transform.log1p
    if feature.clip is not None and column is not None and column.quantiles:
        mean, std = _clipped_moments(column.quantiles, feature)
    else:
        mean = None if column is None else column.log1p_mean if log1p else column.mean
        std = None if column is None else column.log1p_std if log1p else column.std
    if mean is None or std is None:
        problems.append(f"mean and std of {'log1p of ' if log1p else ''}'{name}'")
        return feature
    # A constant column says nothing, whatever it is divided by.
    return replace(feature, standardise=False, mean=mean, std=std or 1.0)


def _clipped_moments(
    quantiles: list[float], feature: Numerical
) -> tuple[float | None, float | None]:
    """Return mean and std of the values that the model sees, from quantiles: clipped ones differ.

    Between two quantiles values are taken to be at their ends, half each.
    """
    least, largest = feature.clip or (-np.inf, np.inf)
    values = np.clip(np.array(quantiles), least, largest)
    if feature.transform is Transform.log1p:
        if values[0] < 0:
            return None, None
        values = np.log1p(values)
    weights = np.ones(len(values))
    weights[[0, -1]] = 0.5
    mean = float(np.average(values, weights=weights))
    return mean, float(np.average((values - mean) ** 2, weights=weights)) ** 0.5


def _check_tables(columns: Columns) -> None:
    for table, names in columns.tables.items():
        first = columns.categorical[names[0]]
        for name in names[1:]:
            other = columns.categorical[name]
            for key in _AGREE:
                expected, found = getattr(first, key), getattr(other, key)
                if expected != found:
                    raise ValueError(
                        f"expected features that share the table '{table}' to agree in {key}, got "
                        f"{expected} of '{names[0]}' and {found} of '{name}'"
                    )
