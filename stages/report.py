"""python -m stages.report: all tables in Markdown, LaTeX and CSV, pictures, one HTML page; the same in MLflow."""

from pathlib import Path

from tcl.commands.boundary import boundary
from tcl.commands.mirror import mirrored
from tcl.config import Config, load_config, read_params
from tcl.files import write_json, write_text
from tcl.report.collect import Contents, collect
from tcl.report.page import page
from tcl.report.results import method_name
from tcl.report.table import Table, as_csv, latex, markdown, per_class
from tcl.report.wall import build_wall, write_wall

OUT = Path("report")


def main() -> None:
    config = load_config()
    contents = collect(config, read_params(Path("params.yaml")), Path())
    wall = build_wall(overlay_folders(config, contents), rows=config.report.pictures)
    if wall is not None:
        write_wall(OUT / "segmentations.png", wall)
    for key in config.benchmarks:
        raws = {variant: scores[key] for variant, scores in contents.results.items() if key in scores}
        write_text(OUT / "per_class" / f"{key}.csv", per_class(raws))
    write_table("table", contents.main)
    for table in contents.ablations:
        write_table(f"ablations/{table.title.lower().replace(': ', '-').replace(' ', '-')}", table)
    write_text(OUT / "index.html", page(config, contents, wall))
    write_text(OUT / "report.md", markdown_page(contents, pictured=wall is not None))
    write_json(Path("metrics.json"), contents.metrics)
    with mirrored(config, contents.results, contents.metrics) as run:
        for path in (OUT, Path("manifests")):
            run.file(path, path.name)
        run.file("params.yaml")


def overlay_folders(config: Config, contents: Contents) -> dict[str, Path]:
    """Where the pictures of each method are, by its name."""
    key = config.report.pictures_of
    return {
        method_name(name): Path("overlays") / name / key for name, scores in contents.results.items() if key in scores
    }


def write_table(name: str, table: Table) -> None:
    for suffix, text in (("md", markdown(table)), ("csv", as_csv(table)), ("tex", latex(table))):
        write_text(OUT / f"{name}.{suffix}", text)


def markdown_page(contents: Contents, *, pictured: bool) -> str:
    """The tables as one Markdown page."""
    parts = [f"# {contents.main.title}", markdown(contents.main)]
    parts += ["Background counts as a class in voc, context and coco_object."]
    parts += ["\n".join(f"- {row.name}: {row.source}." for row in contents.main.rows if row.kind != "difference")]
    parts += [f"Not shown: {each}" for each in contents.flaws]
    parts += ["![segmentations](segmentations.png)"] if pictured else []
    for table in contents.ablations:
        parts += [f"## {table.title}", markdown(table)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    with boundary("report"):
        main()
