"""The data sets of a reproduction, small and large."""

from dataclasses import dataclass

from mbrec.study.benchmark import Benchmark

SYNTHETIC, KUAIRAND = "synthetic", "kuairand_pure"
ADS, FEEDS = ("ctr", "cvr", "conv_imp"), ("ctr", "like", "share", "comment")


@dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        name: as on the command line.
        synthetic: overrides for the synthetic data sets.
        kuairand: overrides on KuaiRand.
        seeds: runs of each setting.
        candidates: maximum number of settings to choose from when tuning.
        measured: overrides of the runs that measure overhead.
    """

    name: str
    synthetic: tuple[str, ...]
    kuairand: tuple[str, ...]
    seeds: int
    candidates: int
    measured: tuple[str, ...]


# A measurement reads the rows again as often as it takes.
MEASURED_STEPS = "trainer.steps=440"
# A dense part of the size that ranking models have, at a batch that fits into an hour.
_MEASURED = ("experiment=bench", "trainer.global_batch_size=1024", MEASURED_STEPS)
SIZES = {
    "tiny": Size(
        "tiny",
        ("data/preset=tiny", "data.synthetic.rows=8192", "trainer.global_batch_size=256"),
        ("trainer.steps=20",),
        seeds=2,
        candidates=2,
        measured=("data/preset=tiny", "trainer.global_batch_size=256", MEASURED_STEPS),
    ),
    "small": Size("small", (), (), seeds=5, candidates=8, measured=_MEASURED),
    "full": Size(
        "full",
        ("data/preset=medium", "data.synthetic.rows=4000000", "trainer.global_batch_size=4096"),
        (),
        seeds=5,
        candidates=8,
        measured=("experiment=bench",),
    ),
}


@dataclass(frozen=True)
class DataSets:
    """The three columns of the paper's Table 3."""

    feeds_a: Benchmark
    feeds_b: Benchmark
    ads: Benchmark

    @property
    def all(self) -> tuple[Benchmark, Benchmark, Benchmark]:
        """In the paper's order."""
        return self.feeds_a, self.feeds_b, self.ads


def data_sets(size: Size, data: str, path: str) -> DataSets:
    """Return the data sets of a size.

    Args:
        size: how much is trained.
        data: `synthetic`, or `kuairand_pure` for feeds A and ads on KuaiRand-Pure.
        path: folder of KuaiRand as prepared.
    """

    def synthetic(
        name: str, label: str, experiment: str, tasks: tuple[str, ...], kind: str
    ) -> Benchmark:
        overrides = (f"experiment={experiment}", f"data.synthetic.conflict={kind}")
        overrides += (*size.synthetic, "data.path=data/synthetic")
        # Settings are chosen on the log of another such world.
        return Benchmark(name, label, tasks, overrides, ("data.synthetic.seed=18",))

    def kuairand(name: str, label: str, experiment: str, tasks: tuple[str, ...]) -> Benchmark:
        overrides = (f"experiment={experiment}", f"data.path={path}", *size.kuairand)
        tuning = ("data.train=[train/*.parquet]", "data.evaluation=[validation/*.parquet]")
        return Benchmark(name, label, tasks, overrides, tuning)

    label = "Feeds B (synthetic, tasks in conflict)"
    feeds_b = synthetic("feeds_b", label, "paper_feeds", FEEDS, "conflict")
    if data == KUAIRAND:
        tasks = ("ctr", "like", "profile_enter", "long_view")
        label = "Feeds A (KuaiRand-Pure)"
        return DataSets(
            kuairand("kuairand_feeds", label, "kuairand_feeds_multibalance", tasks),
            feeds_b,
            kuairand("kuairand_ads", "Ads (KuaiRand-Pure)", "kuairand_multibalance", ADS),
        )
    return DataSets(
        synthetic(
            "feeds_a", "Feeds A (synthetic, tasks in harmony)", "paper_feeds", FEEDS, "aligned"
        ),
        feeds_b,
        synthetic("ads", "Ads (synthetic, click against conversion)", "paper_ads", ADS, "conflict"),
    )
