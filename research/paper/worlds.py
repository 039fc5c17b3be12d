"""The data sets of a reproduction, small and large, and the methods of the paper's tables."""

from dataclasses import dataclass

from mbrec.study.benchmark import Benchmark as World
from mbrec.study.benchmark import Setting
from research.paper import printed

SYNTHETIC, KUAIRAND = "synthetic", "kuairand_pure"


@dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        name: as on the command line.
        synthetic: overrides of the synthetic worlds.
        kuairand: overrides on KuaiRand.
        seeds: runs of each setting.
        candidates: settings that a tuning tries, at most.
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
class Worlds:
    """The three columns of the paper's Table 3.

    Attributes:
        feeds_a: click, like and others.
        feeds_b: click, like and others.
        ads: CTR, CVR and Conv|imp.
    """

    feeds_a: World
    feeds_b: World
    ads: World

    @property
    def all(self) -> tuple[World, World, World]:
        """In the paper's order."""
        return self.feeds_a, self.feeds_b, self.ads


def worlds(size: Size, data: str, path: str) -> Worlds:
    """Return the data sets of a size.

    Args:
        size: how much.
        data: `synthetic`, or `kuairand_pure` for feeds A and ads on KuaiRand-Pure.
        path: folder of the synthetic data sets, and of KuaiRand as prepared.
    """

    def synthetic(
        name: str, label: str, experiment: str, tasks: tuple[str, ...], kind: str
    ) -> World:
        overrides = (f"experiment={experiment}", f"data.synthetic.conflict={kind}")
        overrides += (*size.synthetic, "data.path=data/synthetic")
        # Another log of another such world: nothing of it is compared on.
        return World(name, label, tasks, overrides, ("data.synthetic.seed=18",))

    def kuairand(name: str, label: str, experiment: str, tasks: tuple[str, ...]) -> World:
        overrides = (f"experiment={experiment}", f"data.path={path}", *size.kuairand)
        tuning = ("data.train=[train/*.parquet]", "data.evaluation=[validation/*.parquet]")
        return World(name, label, tasks, overrides, tuning)

    ads, feeds = ("ctr", "cvr", "conv_imp"), ("ctr", "like", "share", "comment")
    b = synthetic(
        "feeds_b", "Feeds B (synthetic, tasks in conflict)", "paper_feeds", feeds, "conflict"
    )
    if data == KUAIRAND:
        tasks = ("ctr", "like", "profile_enter", "long_view")
        label = "Feeds A (KuaiRand-Pure)"
        return Worlds(
            kuairand("kuairand_feeds", label, "kuairand_feeds_multibalance", tasks),
            b,
            kuairand("kuairand_ads", "Ads (KuaiRand-Pure)", "kuairand_multibalance", ads),
        )
    return Worlds(
        synthetic(
            "feeds_a", "Feeds A (synthetic, tasks in harmony)", "paper_feeds", feeds, "aligned"
        ),
        b,
        synthetic("ads", "Ads (synthetic, click against conversion)", "paper_ads", ads, "conflict"),
    )


def multibalance(rate: float, *more: str, name: str = "MultiBalance") -> Setting:
    """Return the paper's method in its likeliest reading, with a rate of the weights."""
    return Setting(name, ("balancer=multibalance_paper", f"balancer.lr={rate:g}", *more))


DEFAULTS = Setting("MultiBalance, mbrec's defaults", ("balancer=multibalance",))


def methods(world: World) -> list[Setting]:
    """Return the methods of Table 3 in the paper's order, with its rates of the weights."""
    rate = printed.ADS_RATE if "cvr" in world.tasks else printed.FEEDS_RATE
    words = {
        "Uncertainty": "uncertainty",
        "PCGrad": "pcgrad",
        "Gradient Vaccine": "gradvac",
        "Gradient Drop": "graddrop",
        "DB-MTL": "dbmtl",
        "IMTLG": "imtlg",
    }
    others = [Setting(name, (f"balancer={word}",)) for name, word in words.items()]
    ours = [multibalance(rate, "balancer.ema=off", name="MultiBalance remove EMA")]
    return [*others, *ours, multibalance(rate)]
