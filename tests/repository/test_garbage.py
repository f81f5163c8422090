"""What is removed by age, and what is not: whatever somebody counts on is as new as what was written now."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from federation.blobs import CLAIM_S, BlobStore
from federation.documents import encode
from federation.layout import ImageLayout
from federation.manifests import EMPTY_CONFIG
from federation.names import Digest, digest_of
from federation.packing import PackedRelease
from peers.release_lifecycle import UNNAMED_LIFE_S
from tests.repository.site import packed, root_record, write_model

DAY_S = 86_400.0
VERSIONS = st.sampled_from(["1.0", "2.0", "3.0"])


def aged(blobs: BlobStore, content: bytes, *, age_s: float = DAY_S) -> tuple[Digest, float]:
    """A blob that was written some time ago."""
    digest = blobs.put(content)
    written = blobs.written(digest) - age_s
    os.utime(blobs.path(digest), (written, written))
    return digest, written


def test_a_blob_that_is_claimed_is_new(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    digest, written = aged(blobs, b"hello")
    assert blobs.claim(digest) == 5
    assert blobs.written(digest) > written + DAY_S - CLAIM_S
    assert not blobs.remove(digest, written_before=written + 1)
    assert blobs.size(digest) == 5


def test_putting_what_is_here_claims_it(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    digest, written = aged(blobs, b"hello")
    assert blobs.put(b"hello") == digest
    assert blobs.written(digest) > written + CLAIM_S


def test_a_young_blob_is_left_as_it_is(tmp_path: Path) -> None:
    """Its times are evidence that it is what was hashed; see the store's witnesses."""
    blobs = BlobStore(tmp_path)
    digest, written = aged(blobs, b"hello", age_s=CLAIM_S / 2)
    assert blobs.claim(digest) == 5
    assert abs(blobs.written(digest) - written) < 1e-3


def test_a_claim_of_what_is_not_here(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    digest, _ = aged(blobs, b"hello")
    assert blobs.remove(digest)
    assert blobs.claim(digest) is None


def test_whoever_was_told_that_a_blob_is_here_finds_it(tmp_path: Path) -> None:
    """Claims and removals of old blobs from two threads: a claim that was answered with a size holds."""
    blobs, other = BlobStore(tmp_path), BlobStore(tmp_path)
    made = [aged(blobs, str(number).encode()) for number in range(300)]
    removed: list[str] = []

    def collect() -> None:
        for digest, written in made:
            if other.remove(digest, written_before=written + 1):
                removed.append(digest)

    collecting = threading.Thread(target=collect)
    collecting.start()
    told = {digest: blobs.claim(digest) for digest, _ in reversed(made)}
    collecting.join()
    assert {digest for digest, size in told.items() if size is not None} == {
        digest for digest, _ in made if blobs.size(digest) is not None
    }
    assert set(removed) == {digest for digest, size in told.items() if size is None}


# --- pushes, deletions and collections in any order ------------------------------------------------------------------


class Pushes(RuleBasedStateMachine):
    """Pushers, deletions and collections that take turns step by step, over days.

    A push looks for each blob (HEAD), sends what is not there, and lists its manifest in the end. Whoever was told that
    a blob is there, at most a day ago, finds it there when the manifest arrives; and what is listed is always whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.layout = ImageLayout(Path(self.folder.name) / "releases")
        self.models = Path(self.folder.name) / "models"
        self.pushing: dict[str, tuple[PackedRelease, list[bytes]]] = {}  # by label: what is still to be sent
        self.pushed: set[str] = set()
        self.hours = 0  # since the pushes that are under way may have begun

    def release(self, version: str) -> PackedRelease:
        """Three versions; each shares a file with the others and has one of its own."""
        folder = self.models / version
        if not folder.exists():
            write_model(folder, more='docs = ["own.md", "shared.md"]\n')
            (folder / "own.md").write_text(f"of {version}")
            (folder / "shared.md").write_text("of all")
        return packed(folder, version=version)

    @rule(version=VERSIONS)
    def begin(self, version: str) -> None:
        if version not in self.pushing and version not in self.pushed:
            release = self.release(version)
            envelope = encode(release.signed)
            self.pushing[version] = release, [*release.files.values(), release.config, envelope, EMPTY_CONFIG]

    @rule(version=VERSIONS)
    def send_one(self, version: str) -> None:
        release, left = self.pushing.get(version, (None, []))
        if release is not None and left:
            content = left.pop()
            if self.layout.blobs.claim(digest_of(content)) is None:  # HEAD
                self.layout.blobs.put(content)

    @rule(version=VERSIONS)
    def end(self, version: str) -> None:
        release, left = self.pushing.get(version, (None, []))
        if release is None or left:
            return
        del self.pushing[version]
        self.layout.put_manifest(release.repository, release.manifest, tag=version, whole=True)
        self.layout.put_manifest(release.repository, release.attachment, whole=True)
        self.pushed.add(version)

    @rule(version=VERSIONS)
    def delete(self, version: str) -> None:
        for installed in self.layout.releases():
            if installed.version == version:
                self.layout.remove(installed, written_before=time.time() - UNNAMED_LIFE_S)
                self.pushed.discard(version)

    @rule()
    def collect(self) -> None:
        self.layout.collect_garbage(written_before=time.time() - UNNAMED_LIFE_S)

    @rule(hours=st.sampled_from([1, 7]))
    def time_passes(self, hours: int) -> None:
        """Everything on disk grows older; a push that takes longer than a day is given up."""
        for path in (self.layout.path / "blobs" / "sha256").iterdir():
            age = path.stat().st_mtime - hours * 3600.0
            os.utime(path, (age, age))
        self.hours += hours
        if self.hours >= UNNAMED_LIFE_S / 3600.0 - 8:
            self.pushing.clear()
            self.hours = 0

    @invariant()
    def what_is_listed_is_whole(self) -> None:
        assert {release.version for release in self.layout.releases()} == self.pushed
        for installed in self.layout.releases():
            signed = self.layout.signed(installed)
            assert self.layout.verified(signed, root=root_record()).label == installed.label

    def teardown(self) -> None:
        self.pushing.clear()
        for version in ("1.0", "2.0", "3.0"):
            self.delete(version)
        self.layout.collect_garbage()
        assert list(self.layout.blobs.digests()) == []
        self.folder.cleanup()


TestPushes = Pushes.TestCase
TestPushes.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_a_collection_under_pushes_from_other_threads(tmp_path: Path) -> None:
    """Real threads: each push that was told nothing is missing ends with a release that is whole."""
    layout = ImageLayout(tmp_path / "releases")
    releases = []
    for number in range(12):
        folder = write_model(tmp_path / "models" / str(number), more='docs = ["own.md"]\n')
        (folder / "own.md").write_text(f"of {number}")
        releases.append(packed(folder, version=f"{number}.0"))
    for release in releases:  # their blobs lie here, old, and nothing names them
        for content in (*release.files.values(), release.config, encode(release.signed), EMPTY_CONFIG):
            aged(layout.blobs, content, age_s=2 * UNNAMED_LIFE_S)
    ended = threading.Event()

    def collect() -> None:
        while not ended.is_set():
            layout.collect_garbage(written_before=time.time() - UNNAMED_LIFE_S)

    collecting = threading.Thread(target=collect)
    collecting.start()
    try:
        for release in releases:
            for content in (*release.files.values(), release.config, encode(release.signed), EMPTY_CONFIG):
                if layout.blobs.claim(digest_of(content)) is None:
                    layout.blobs.put(content)
            layout.put_manifest(release.repository, release.manifest, tag=release.record.version, whole=True)
            layout.put_manifest(release.repository, release.attachment, whole=True)
    finally:
        ended.set()
        collecting.join()
    assert [layout.verified(one.signed, root=root_record()).label for one in releases] == [
        f"doubler@{number}.0" for number in range(12)
    ]
