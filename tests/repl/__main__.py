"""Record the first session anew: ``python -m tests.repl`` writes docs/recordings/first-session.cast and its text in
docs/repl.md.
"""

import re
import tempfile
from pathlib import Path

from tests.repl.first_session import RECORDING, ROOT, TITLE, played, prepared
from tests.repl.recording import replayed

PAGE = ROOT / "docs" / "repl.md"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, prepared(Path(folder)) as made:
        person = played(made)
        assert person.ended() == 0
        cast = person.cast(TITLE)
    RECORDING.parent.mkdir(exist_ok=True)
    RECORDING.write_text(cast, "utf-8")
    text = "\n".join(replayed(cast)) + "\n"
    page = PAGE.read_text("utf-8")
    opening, closing = "<!-- recorded: first-session -->", "<!-- end -->"
    shown = re.sub(
        f"{re.escape(opening)}.*?{re.escape(closing)}",
        lambda _: f"{opening}\n\n```text\n{text}```\n\n{closing}",
        page,
        flags=re.DOTALL,
    )
    PAGE.write_text(shown, "utf-8")
    print(f"{RECORDING.relative_to(ROOT)}: {len(cast)} bytes, {person.now:.0f} s; {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
