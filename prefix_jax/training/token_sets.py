"""Token ids of records for a session, and what the tokenizer loses of their text; both are kept in the cache."""

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from prefix_jax.cache import cache_path
from prefix_jax.data import audit, tokens
from prefix_jax.data.records import Record
from prefix_jax.data.tokens import Limits, TokenisedSet
from prefix_jax.dependencies import DataAudit, TokenIds
from prefix_jax.errors import UserError
from prefix_jax.parallel import distributed
from prefix_jax.training.session import Session


def fitting(session: Session, records: Sequence[Record], where: str) -> tuple[Sequence[Record], TokenisedSet]:
    """Returns the records to train on or to measure with their token ids: where `data.too_long` is "drop", those that
    fit, after a line that counts the others.

    Args:
      where: what the records are, for messages.

    Raises:
      UserError: a record does not fit and is not to be dropped, or none fits.
    """
    how, limits = session.config.data.too_long, session.limits
    if how != "drop":
        data = tokenised(session, records)
        if how == "refuse" and (line := audit.cut_line(data.sources.lengths, data.whole, limits.source)):
            raise UserError(f"{where}: {line} (data.too_long=refuse makes this an error)")
        return records, data
    data = tokenised(session, records, dataclasses.replace(limits, target=2**31, window=0))
    sources = data.sources.lengths if data.whole is None else data.whole
    targets = data.targets.lengths
    fits = (sources <= limits.source) & (targets <= limits.target)
    if limits.window:
        fits &= sources + targets - 1 <= limits.window
    if not fits.any() and len(records):
        raise UserError(f"{where}: no record fits data.max_source_length and data.max_target_length; raise them")
    if (lost := int((~fits).sum())) and distributed.is_primary():
        print(f"{where}: {lost:,} of {len(records):,} records are too long and left out", file=sys.stderr)
    places = np.flatnonzero(fits)
    return [records[int(place)] for place in places], data.at(places)


def tokenised(session: Session, records: Sequence[Record], limits: Limits | None = None) -> TokenisedSet:
    """Returns the records' token ids, from the user's cache directory where they were made before: then no tokenizer is
    loaded, which is slow. `limits` are those of the session if None.
    """
    data, limits = session.config.data, limits or session.limits
    depends = TokenIds(
        version=tokens.VERSION,
        tokenizer=session.pretrained.tokenizer_key,
        source_format=data.source_format,
        target_format=data.target_format,
        encoder_decoder=session.model_config.is_encoder_decoder,
        limits=dataclasses.astuple(limits),
        sources=[record.source for record in records],
        targets=[record.target for record in records],
        languages=(data.source_language, data.target_language),
    )
    found = tokens.kept(
        cache_path("tokens"), depends, lambda: tokens.tokenise(records, session.tokenizer, session.formats, limits)
    )
    for side, ids in (("source", found.sources), ("target", found.targets)):
        session.check_ids(ids, lambda i, side=side: f"the {side} of record {records[i].id}")
    return found


def unchecked(session: Session, records: Sequence[Record]) -> TokenisedSet:
    """Returns the records' token ids whatever their lengths; sources are cut."""
    return tokenised(session, records, dataclasses.replace(session.limits, target=2**31, window=0))


def audited(session: Session, records: Sequence[Record], data: TokenisedSet, where: str) -> audit.Measured:
    """Says what the tokenizer does to the records that are trained on; returns what it counted.

    Args:
      data: the records' ids.
      where: what the records are, for the sentences.

    Raises:
      UserError: there is something that `data.strict` makes an error.
    """
    measured, found = examined(session, records, data)
    wanted = audit.strict(session.config.data.strict)
    audit.say(where, found, wanted, quiet=not distributed.is_primary())
    return {**measured, "said": list(found.values())}


def examined(session: Session, records: Sequence[Record], data: TokenisedSet) -> tuple[audit.Measured, dict[str, str]]:
    """Returns what the tokenizer does to records: counts, and a sentence for each finding.

    The counts are kept beside the token ids, so that no tokenizer is loaded where they were made before.
    """
    options, model_config, limit = session.config.data, session.model_config, session.limits.source
    depends = DataAudit(
        version=audit.VERSION,
        token_version=tokens.VERSION,
        tokenizer=session.pretrained.tokenizer_key,
        source_format=options.source_format,
        target_format=options.target_format,
        encoder_decoder=model_config.is_encoder_decoder,
        limit=limit,
        ends=model_config.eos_ids,
        keep_special_tokens=options.keep_special_tokens,
        names=[record.id for record in records],
        sources=[record.source for record in records],
        targets=[record.target for record in records],
        languages=(options.source_language, options.target_language),
    )

    def measure() -> audit.Measured:
        source = tokens.frame(session.formats.source, "source", session.tokenizer)
        return audit.measure(records, data, session.printer, source, session.formats.target)

    measured = audit.kept(cache_path("tokens"), depends, measure)
    wanted = audit.strict(options.strict)
    return measured, audit.findings(measured, data, limit, session.config.decoding.max_length, wanted)
