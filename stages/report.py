"""python -m stages.report: the main table in Markdown and CSV, scores by class, pictures, all of it in MLflow too."""

from pathlib import Path

from tcl.commands.boundary import boundary
from tcl.commands.mirror import mirrored
from tcl.config import Config, load_config
from tcl.files import write_json, write_text
from tcl.report.table import Row, as_csv, markdown, our_row, paper_rows, per_class, read_results
from tcl.report.wall import write_wall

OUT = Path("report")
METRICS = Path("metrics.json")
NAMES = {"tcl": "TCL", "official": "TCL (authors' checkpoint)", "maskclip": "MaskCLIP"}


def main() -> None:
    config = load_config()
    variants = [*config.baselines.methods, *dict.fromkeys(each.variant for each in config.evaluations.values())]
    results = {variant: read_results(Path("results"), variant) for variant in variants}
    ours = {variant: our_row(NAMES.get(variant, variant), results[variant]) for variant in variants}
    rows = main_rows(config, ours)
    folders = {
        NAMES.get(v, v): Path("overlays/baselines") / config.report.pictures_of / v
        if v in config.baselines.methods
        else Path("overlays") / v / config.report.pictures_of
        for v in variants
    }
    pictured = write_wall(OUT / "segmentations.png", folders, rows=config.report.pictures)
    for key in config.benchmarks:
        write_text(OUT / "per_class" / f"{key}.csv", per_class(results, key))
    write_text(OUT / "table.csv", as_csv(rows))
    write_text(OUT / "table.md", markdown(rows))
    write_text(OUT / "report.md", page(config, rows, pictured=pictured))
    write_json(METRICS, {variant: row.rounded() for variant, row in ours.items()})
    with mirrored(config, results, {variant: row.average for variant, row in ours.items()}) as run:
        for path in (OUT, Path("manifests")):
            run.file(path, path.name)
        run.file("params.yaml")


def main_rows(config: Config, ours: dict[str, Row]) -> list[Row]:
    """The paper's rows, ours, and the differences that the profile asks for."""
    rows = [*paper_rows(config.report.paper_rows), *ours.values()]
    own = paper_rows(["tcl_pamr" if config.evaluate.pamr else "tcl"])[0]
    for one, other in config.report.differences:
        rows.append(ours[one].minus(own if other == "paper" else ours[other]))
    return rows


def page(config: Config, rows: list[Row], *, pictured: bool) -> str:
    """The report as one Markdown page."""
    sources = "\n".join(f"- {row.name}: {row.source}." for row in rows if row.source != "difference in points")
    picture = "\n![segmentations](segmentations.png)\n" if pictured else ""
    return (
        f"# {config.report.title}\n\n{markdown(rows)}\n"
        f"Background counts as a class in voc, context and coco_object.\n\n{sources}\n{picture}"
    )


if __name__ == "__main__":
    with boundary("report"):
        main()
