"""Keys, conflicts, leases and hand-overs of revisions, on the ledger alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shelflist.core.errors import CollectionNotFound
from shelflist.core.fields import Fields
from shelflist.core.transaction import Database
from shelflist.database import SqliteDatabase
from shelflist.ledger import revisions
from shelflist.ledger.catalog import CollectionRecord
from shelflist.ledger.ledger import Ledger
from shelflist.ledger.revisions import NewChunk, Revision
from shelflist.ledger.schema import open_schema


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = SqliteDatabase(tmp_path / "ledger.db")
    yield found
    found.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


@pytest.fixture
def docs(ledger: Ledger) -> CollectionRecord:
    return ledger.catalog.create(
        "docs",
        tenancy="none",
        fields=Fields(),
        target_recall=0.95,
        embedder=None,
        fingerprint="x",
        dimensions=2,
        metric="cosine",
        index=None,
    )


def new_chunk(text: str) -> NewChunk:
    raw = os.urandom(16)
    return NewChunk(raw, raw, raw, raw, None, 0, None, None, None, "{}", text)


def revision_of(ledger: Ledger, docs: CollectionRecord, name: str, *texts: str, number: int | None = None) -> Revision:
    """The next revision of a document: these texts instead of all that it has."""
    source = ledger.catalog.source(docs.collection_id, "", "here")
    known = ledger.documents.find(docs.collection_id, "", [name]).get(name)
    key = known.document_key if known else 0
    removed = [one.chunk_key for one in ledger.documents.members(docs.generation_id, [key] if key else []).get(key, [])]
    return Revision(
        name,
        "",
        key,
        known.revision if known else 0,
        number or (known.next_revision + 1 if known else 1),
        source,
        b"digest",
        None,
        [new_chunk(text) for text in texts],
        removed=removed,
    )


def write(ledger: Ledger, docs: CollectionRecord, one: Revision) -> bool:
    """Begin and switch, as a sync does; whether it won."""
    lost = ledger.revisions.begin(docs.collection_id, docs.generation_id, [one], durable=True)
    if lost:
        return False
    ledger.revisions.acknowledge(docs.generation_id, [chunk.chunk_key for chunk in one.new])
    return not ledger.revisions.switch(docs.generation_id, [one], grace=0, durable=True)


def served(ledger: Ledger, docs: CollectionRecord, one: Revision) -> list[str]:
    live = ledger.documents.live(docs.collection_id, docs.generation_id, [chunk.point_id for chunk in one.new], None)
    return sorted(chunk.content for chunk in live.values())


def test_a_key_is_never_given_out_twice(ledger: Ledger, docs: CollectionRecord) -> None:
    keys: list[int] = []
    for turn in range(3):
        one = revision_of(ledger, docs, "a", f"text {turn}", f"more {turn}")
        assert write(ledger, docs, one)
        keys += [chunk.chunk_key for chunk in one.new]
        gone = revision_of(ledger, docs, "a")
        assert write(ledger, docs, gone)
        due = ledger.revisions.due(docs.generation_id, 10)
        assert len(due) == 2
        ledger.revisions.purged(docs.generation_id, [point.chunk_key for point in due])
    assert sorted(set(keys)) == keys


def test_a_document_key_is_not_given_out_again_after_a_drop(ledger: Ledger, docs: CollectionRecord) -> None:
    one = revision_of(ledger, docs, "a", "text")
    assert write(ledger, docs, one)
    ledger.catalog.drop(docs.collection_id)
    again = ledger.catalog.create(
        "docs",
        tenancy="none",
        fields=Fields(),
        target_recall=0.95,
        embedder=None,
        fingerprint="x",
        dimensions=2,
        metric="cosine",
        index=None,
    )
    other = revision_of(ledger, again, "a", "text")
    assert write(ledger, again, other)
    assert other.document_key > one.document_key and other.new[0].chunk_key > one.new[0].chunk_key


def test_of_two_plans_for_one_document_the_second_loses(ledger: Ledger, docs: CollectionRecord) -> None:
    first, second = revision_of(ledger, docs, "a", "first"), revision_of(ledger, docs, "a", "second")
    assert write(ledger, docs, first)
    assert not write(ledger, docs, second) and second.document_key == 0
    assert (served(ledger, docs, first), served(ledger, docs, second)) == (["first"], [])
    third, fourth = revision_of(ledger, docs, "a", "third"), revision_of(ledger, docs, "a", "fourth")
    assert ledger.revisions.begin(docs.collection_id, docs.generation_id, [third], durable=True) == []
    assert ledger.revisions.begin(docs.collection_id, docs.generation_id, [fourth], durable=True) == [fourth]
    assert ledger.revisions.switch(docs.generation_id, [third], grace=0, durable=True) == []
    assert served(ledger, docs, third) == ["third"]


def test_a_revision_that_was_overtaken_loses_at_the_switch(ledger: Ledger, docs: CollectionRecord) -> None:
    slow, quick = revision_of(ledger, docs, "a", "slow"), None
    assert ledger.revisions.begin(docs.collection_id, docs.generation_id, [slow], durable=True) == []
    quick = revision_of(ledger, docs, "a", "quick")
    assert quick.document_key == slow.document_key and quick.number > slow.number
    assert write(ledger, docs, quick)
    assert ledger.revisions.switch(docs.generation_id, [slow], grace=0, durable=True) == [slow]
    assert (served(ledger, docs, quick), served(ledger, docs, slow)) == (["quick"], [])
    assert [point.point_id for point in ledger.revisions.due(docs.generation_id, 9)] == [slow.new[0].point_id]


def name(ledger: Ledger, owner: str | None) -> None:
    """Let the ledger take itself for another process; None: for this one again."""
    ledger.revisions._owner._pid, ledger.revisions._owner._name = (os.getpid(), owner) if owner else (0, "")


def other_process(ledger: Ledger) -> Ledger:
    """The same ledger as another process on another machine sees it."""
    other = Ledger(ledger.database)
    name(other, f"elsewhere:{os.getpid()}:0")
    return other


def test_work_is_taken_up_once_when_its_lease_has_run_out(
    ledger: Ledger, docs: CollectionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = revision_of(ledger, docs, "a", "text")
    monkeypatch.setattr(revisions, "LEASE_SECONDS", -1.0)
    assert ledger.revisions.begin(docs.collection_id, docs.generation_id, [one], durable=True) == []
    monkeypatch.undo()
    other = other_process(ledger)
    (work,) = other.revisions.unfinished(docs.generation_id)
    assert (work.document_key, work.number) == (one.document_key, one.number)
    assert ledger.revisions.unfinished(docs.generation_id) == []


def test_the_work_of_a_dead_process_is_taken_up_at_once_and_of_another_machine_not(
    ledger: Ledger, docs: CollectionRecord
) -> None:
    child = os.fork() if hasattr(os, "fork") else pytest.skip("needs os.fork")
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    one, two = revision_of(ledger, docs, "a", "text"), revision_of(ledger, docs, "b", "text")
    name(ledger, f"elsewhere:{child}:0")
    assert ledger.revisions.begin(docs.collection_id, docs.generation_id, [one], durable=True) == []
    name(ledger, None)
    here = ledger.revisions.owner.rsplit(":", 2)[0]
    name(ledger, f"{here}:{child}:0")
    assert ledger.revisions.begin(docs.collection_id, docs.generation_id, [two], durable=True) == []
    name(ledger, None)
    assert [work.document_key for work in ledger.revisions.unfinished(docs.generation_id)] == [two.document_key]


def test_a_late_owner_does_not_condemn_what_another_has_finished(
    ledger: Ledger, docs: CollectionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = revision_of(ledger, docs, "a", "text")
    monkeypatch.setattr(revisions, "LEASE_SECONDS", -1.0)
    assert ledger.revisions.begin(docs.collection_id, docs.generation_id, [one], durable=True) == []
    other = other_process(ledger)
    (work,) = other.revisions.unfinished(docs.generation_id)
    taken = other.revisions.load(docs.generation_id, work)
    assert taken is not None
    assert other.revisions.switch(docs.generation_id, [taken], grace=0, durable=True) == []
    assert ledger.revisions.switch(docs.generation_id, [one], grace=0, durable=True) == []
    assert served(ledger, docs, one) == ["text"]
    assert ledger.revisions.due(docs.generation_id, 9) == []


def test_a_late_owner_does_not_serve_what_another_has_given_up(
    ledger: Ledger, docs: CollectionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = revision_of(ledger, docs, "a", "text")
    monkeypatch.setattr(revisions, "LEASE_SECONDS", -1.0)
    assert ledger.revisions.begin(docs.collection_id, docs.generation_id, [one], durable=True) == []
    other = other_process(ledger)
    (work,) = other.revisions.unfinished(docs.generation_id)
    taken = other.revisions.load(docs.generation_id, work)
    assert taken is not None
    other.revisions.abandon(docs.generation_id, taken, grace=0)
    assert ledger.revisions.switch(docs.generation_id, [one], grace=0, durable=True) == [one]
    assert served(ledger, docs, one) == []
    assert len(ledger.revisions.due(docs.generation_id, 9)) == 1


def test_nothing_is_written_to_a_collection_that_was_dropped(ledger: Ledger, docs: CollectionRecord) -> None:
    one = revision_of(ledger, docs, "a", "text")
    ledger.catalog.drop(docs.collection_id)
    with pytest.raises(CollectionNotFound, match="dropped"):
        ledger.revisions.begin(docs.collection_id, docs.generation_id, [one], durable=True)
    with ledger.database.read() as tx:
        assert tx.execute("SELECT count(*) FROM sl_documents").fetchone() == (0,)


def test_the_live_clause_is_the_check(ledger: Ledger, docs: CollectionRecord) -> None:
    first, second = revision_of(ledger, docs, "a", "old"), None
    assert write(ledger, docs, first)
    second = revision_of(ledger, docs, "a", "new \0 one", "two")
    assert write(ledger, docs, second)
    ids = [chunk.point_id for chunk in (*first.new, *second.new)]
    clause = ledger.documents.live_clause(docs.collection_id, docs.generation_id, None)
    found: dict[bytes, tuple[object, ...]] = {}
    with ledger.database.read() as tx:
        for one in ids:
            before, _, after = clause.sql.partition("found.point_id")
            place = before.count("?")
            values = (*clause.parameters[:place], one, *clause.parameters[place:])
            for row in tx.execute(f"{before}?{after}", values):
                found[one] = row
    live = ledger.documents.live(docs.collection_id, docs.generation_id, ids, None)
    assert ledger.documents.live_from(found) == live
    assert sorted(chunk.content for chunk in live.values()) == ["new \0 one", "two"]
    other = ledger.documents.live_clause(docs.collection_id, docs.generation_id, "somebody")
    assert other.sql.count("?") == len(other.parameters) == len(clause.parameters) + 1


def test_a_ledger_of_version_2_goes_on_counting_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shelflist.ledger import schema

    steps = schema.migrations()
    monkeypatch.setattr(schema, "migrations", lambda: steps[:2])
    old = SqliteDatabase(tmp_path / "old.db")
    open_schema(old)
    with old.write() as tx:
        tx.execute("INSERT INTO sl_documents VALUES (41, 1, '', 'a', 1, 1, 1, NULL, NULL, 0, NULL, 0.0)")
    monkeypatch.undo()
    open_schema(old)
    with old.read() as tx:
        assert tx.execute("SELECT * FROM sl_keys ORDER BY kind").fetchall() == [("chunk", 0), ("document", 41)]
