"""Going on over broken photos: which were skipped, and why."""

from __future__ import annotations

from pathlib import Path

from mask2former.errors import DataError


class SkippedPhotos:
    """A list of photos that could not be used, each with the reason.

    It is a file, since the processes that read photos add to it too; without one it is kept in memory, for one process.

    Arguments:
        file: made when the first photo is skipped.
    """

    def __init__(self, file: Path | str | None = None):
        self.file = Path(file) if file is not None else None
        self._reasons: list[str] = []

    def add(self, error: DataError) -> None:
        reason = str(error).replace("\n", " ")
        if reason in self._reasons:
            return
        self._reasons.append(reason)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(reason + "\n")

    def reasons(self) -> list[str]:
        """One for each skipped photo, whichever process skipped it."""
        written = self.file.read_text(encoding="utf-8").splitlines() if self.file and self.file.exists() else []
        return list(dict.fromkeys([*written, *self._reasons]))

    def text(self, shown: int = 10) -> str:
        """For people; empty where nothing was skipped."""
        reasons = self.reasons()
        if not reasons:
            return ""
        lines = [f"{len(reasons)} broken photos were skipped:", *(f"  {reason}" for reason in reasons[:shown])]
        if len(reasons) > shown:
            lines.append(f"  … and {len(reasons) - shown} more" + (f", in {self.file}" if self.file else ""))
        return "\n".join(lines)
