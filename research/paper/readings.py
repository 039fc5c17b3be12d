"""The open readings of the paper's text, and the effect of each on tasks that conflict."""

from mbrec.study.benchmark import EQUAL, Benchmark, Setting, single_task, static_grid
from mbrec.study.jobs import Job
from research.paper import printed
from research.paper.data_sets import ADS, FEEDS
from research.paper.excess import MERGED, NOTES, excess_table
from research.paper.page import Page, Part
from research.paper.runs import Runs

# Arguments that a row does not name. Spelled out, so that a row keeps its meaning when defaults
# change.
USUAL = {
    "lr": 0.1,
    "prior_strength": 0.3,
    "prior_in_output": "false",
    "ema": "stabilize",
    "ema_scope": "weights_only",
    "update": "cosine",
}


def ours(name: str, *more: str, **arguments: object) -> Setting:
    """Return a reading of MultiBalance.

    Args:
        name: of the row.
        more: overrides beside the balancer's.
        arguments: of the balancer, that differ from `USUAL`.
    """
    words = tuple(f"balancer.{key}={value}" for key, value in (USUAL | arguments).items())
    return Setting(name, ("balancer=multibalance", *words, *more))


def _output(lr: float, lam: float) -> Setting:
    return ours(f"output w, lr {lr:g}, lam {lam:g}", lr=lr, prior_strength=lam)


def _output_prior(lr: float, lam: float) -> Setting:
    """Return SDMGrad's: the prior is in what merges as well."""
    name = f"output w + lam w0, lr {lr:g}, lam {lam:g}"
    return ours(name, lr=lr, prior_strength=lam, prior_in_output="true")


def _averages() -> list[Setting]:
    """Return what the moving average of the norms may be for.

    With `weights_only`, `anchor` is `unit`: cosines know no common factor.
    """
    scopes = (("stabilize", "both"), ("unit", "weights_only"), ("anchor", "both"))
    prior = {"prior_in_output": "true", "prior_strength": 1, "ema_scope": "both"}
    return [
        ours("ema off", ema="off"),
        *(ours(f"ema {ema}, {scope}", ema=ema, ema_scope=scope) for ema, scope in scopes),
        ours("ema anchor, both, prior in output, lam 1", ema="anchor", **prior),
    ]


def _methods() -> list[Setting]:
    words = ("imtlg", "mgda", "pcgrad", "uncertainty")
    others = [Setting(word, (f"balancer={word}",)) for word in words]
    # The scale of MultiBalance's gradient, without its weights.
    return [*others, Setting("equal weights, mean", ("balancer=equal", "balancer.scale=mean"))]


def _few() -> list[Setting]:
    """Return the readings that are worth a run on every data set."""
    rates = [_output(lr, 0.3) for lr in (0.1, 1.0, 5.0)]
    off, stabilised, _, _, anchor = _averages()
    priors = [_output_prior(0.1, lam) for lam in (0.3, 1)]
    return [*rates, _output(0.1, 0), *priors, off, stabilised, anchor, _methods()[0]]


def compared(runs: Runs) -> dict[Benchmark, list[Setting]]:
    """Return data set -> the settings to run on it."""

    def on(name: str, label: str, experiment: str, tasks: tuple[str, ...], *more: str) -> Benchmark:
        overrides = (f"experiment={experiment}", "data.path=data/synthetic", *more)
        return Benchmark(name, label, tasks, overrides)

    if runs.size.name == "tiny":
        return {on("readings_ads", "ads", "paper_ads", ADS, *runs.size.synthetic): _few()[:3]}
    # The set-up of a prototype whose figures these repeat: small enough to overfit.
    two = ("data.synthetic.rows=200000", "trainer.epochs=2")
    large = (
        "data.synthetic.rows=1200000",
        "data.synthetic.evaluation_fraction=0.05",
        "trainer.global_batch_size=8192",
        "optimizer.dense_lr=0.01",
    )
    # The text's reading: the weights that the update gives are those that merge.
    rates = [(0.1, lam) for lam in (0, 0.1, 0.3, 1)] + [(1.0, 0), (1.0, 0.3), (5.0, 0.3)]
    whole = [*static_grid(ADS), *(_output(lr, lam) for lr, lam in rates)]
    whole += [_output_prior(lr, lam) for lr in (0.1, 1.0) for lam in (0.3, 1)]
    whole += [*_averages(), ours("inner products", update="inner"), *_methods()]
    few = [*static_grid(ADS)[:3], *_few()]
    feeds = [*static_grid(FEEDS)[:4], *_few()]
    one = "one epoch of 320,000 rows"
    eight = "Ads, batch 8,192, one epoch of 1,140,000 rows"
    both = "Ads, batch 1,024, two epochs of 160,000 rows"
    return {
        on("readings_ads_1k_one", f"Ads, batch 1,024, {one}", "paper_ads", ADS): whole,
        on("readings_ads_8k", eight, "paper_ads", ADS, *large): few,
        on("readings_feeds_1k_one", f"Feeds, batch 1,024, {one}", "paper_feeds", FEEDS): feeds,
        on("readings_ads_1k", both, "paper_ads", ADS, *two): whole,
    }


def jobs(runs: Runs) -> list[Job]:
    """Return the runs of all readings."""
    found = []
    for data_set, settings in compared(runs).items():
        found += runs.jobs(data_set, [EQUAL, *single_task(data_set.tasks), *settings])
    return found


def write(runs: Runs) -> Page:
    """Return the page: a table for each data set, the first on top."""
    tables = {on.label: excess_table(runs, on, settings) for on, settings in compared(runs).items()}
    first, *others = tables
    notes = [
        f"The first table: {first}.",
        *NOTES,
        "Where a row does not say otherwise: lr 0.1, lam 0.3, `stabilize`, `weights_only`, cosine, "
        "output w. `balancer=multibalance` is `output w + lam w0, lr 0.1, lam 0.3`.",
        MERGED,
    ]
    title = "The open readings of the paper"
    page = Page("readings", title, tables[first], None, notes, label=printed.SYNTHETIC)
    page.more = {label: tables[label] for label in others}
    return page


PART = Part(write, jobs)
