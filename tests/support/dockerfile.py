"""Reads `deploy/docker/Dockerfile` far enough to say what an image holds, without building it."""

import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
#: What `Dockerfile.dockerignore` keeps from the builder below what it lets through.
IGNORED = ("__pycache__", "*.pyc")
HIDDEN = (ROOT / "services" / "meshkit" / "testing",)


#: What the wheel of this project holds.
WHEEL: tuple[str, ...] = tuple(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
)


@dataclass
class Stage:
    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, kind: str) -> list[str]:
        return [value for name, value in self.instructions if name == kind]


@dataclass(frozen=True)
class Copy:
    #: In the checkout.
    source: Path
    #: In the image.
    target: str


class Dockerfile:
    def __init__(self, text: str) -> None:
        self.arguments: dict[str, str] = {}
        self.stages: dict[str, Stage] = {}
        joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
        stage: Stage | None = None
        for line in filter(None, map(str.strip, joined.splitlines())):
            kind, _, value = line.partition(" ")
            if kind == "FROM":
                base, _, name = value.partition(" AS ")
                stage = Stage(name, re.sub(r"\$\{(\w+)\}", lambda found: self.arguments[found[1]], base))
                self.stages[name] = stage
            elif stage is None:
                name, _, default = value.partition("=")
                self.arguments[name] = default
            else:
                stage.instructions.append((kind, value))

    @property
    def images(self) -> list[str]:
        """Stages that nothing is built from: what is shipped."""
        used = {stage.base for stage in self.stages.values()} | {
            found
            for stage in self.stages.values()
            for copy in stage.of("COPY")
            for found in re.findall(r"--from=(\S+)", copy)
        }
        return [name for name in self.stages if name not in used]

    def chain(self, name: str) -> list[Stage]:
        """A stage and those it is built from, the first one first."""
        stage = self.stages.get(name)
        return [] if stage is None else [*self.chain(stage.base), stage]

    def last(self, name: str, kind: str) -> str:
        """What holds of an instruction that replaces the one before."""
        return [value for stage in self.chain(name) for value in stage.of(kind)][-1]

    def files(self, name: str) -> list[Copy]:
        """What of the checkout lies below `/app` in an image."""
        found: list[Copy] = []
        for stage in self.chain(name):
            if any(run.endswith("--target /app/packages /wheel/*.whl") for run in stage.of("RUN")):
                found += [Copy(ROOT / package, f"/app/packages/{Path(package).name}") for package in WHEEL]
            for words in map(str.split, stage.of("COPY")):
                options = [word for word in words if word.startswith("--")]
                *sources, target = [word for word in words if not word.startswith("--")]
                origin = next((word.removeprefix("--from=") for word in options if word.startswith("--from=")), None)
                if origin in self.stages and sources == ["/app"]:
                    found += self.files(origin)
                elif origin is None and target.startswith("/app"):
                    found += [
                        Copy(ROOT / source, target + Path(source).name if target.endswith("/") else target)
                        for source in sources
                    ]
        return found

    def locks(self, name: str) -> list[Path]:
        """Lock files whose packages an image holds."""
        found: list[Path] = []
        for stage in self.chain(name):
            for copy in stage.of("COPY"):
                match = re.fullmatch(r"--from=(\S+) /app /app", copy)
                if match and match[1] in self.stages:
                    found += self.locks(match[1])
            for run in stage.of("RUN"):
                copied = {Path(word).name: ROOT / word for copy in stage.of("COPY") for word in copy.split()}
                words = shlex.split(run)
                found += [
                    copied[Path(words[place + 1]).name]
                    for place, word in enumerate(words)
                    if word == "-r" and "/app/packages" in words[:place]
                ]
        return found


def read_dockerfile() -> Dockerfile:
    return Dockerfile(DOCKERFILE.read_text())


def assemble(copies: list[Copy], folder: Path) -> None:
    """Lays an image's files out below a folder that stands for its root, as links."""

    def hidden(directory: str, names: list[str]) -> set[str]:
        return {name for name in names if Path(directory, name) in HIDDEN} | shutil.ignore_patterns(*IGNORED)(
            directory, names
        )

    for copy in copies:
        target = folder / copy.target.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy.source.is_dir():
            shutil.copytree(copy.source, target, ignore=hidden, copy_function=_link, dirs_exist_ok=True)
        else:
            _link(copy.source, target)


def _link(source: str | Path, target: str | Path) -> None:
    # A later layer may bring once more what an earlier one has brought.
    Path(target).unlink(missing_ok=True)
    Path(target).symlink_to(source)
