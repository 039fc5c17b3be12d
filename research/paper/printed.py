"""What He et al. 2024 print: Tables 1 to 4 (arXiv 2411.11871, section 5)."""

LABEL = "Public or synthetic data, not Meta's: the paper's figures stand beside for orientation."
# Of a page without the paper's figures.
SYNTHETIC = "Synthetic data, not Meta's."

# Table 1: parameters, and the share of the categorical module, of Meta's three models.
PARAMETERS = {
    "DNN": ("1.2 Billion", "18 Billion", "93.75%"),
    "DIN": ("1.7 Billion", "18 Billion", "91.37%"),
    "Crossmedia": ("1 Million", "5 Billion", "99.98%"),
}

# Table 2: (method, target) -> QPS drop, NE gains of CVR, Conv|imp and CTR, all in per cent.
TARGETS = {
    ("MGDA", "Interaction Module"): (82.353, 0.062, -0.010, -0.021),
    ("MGDA", "Numerical Feature Module"): (68.235, -0.015, 0.000, -0.007),
    ("MGDA", "Categorical Feature Module"): None,
    ("MoCo", "Interaction Module"): (82.524, 0.033, -0.028, -0.028),
    ("MoCo", "Numerical Feature Module"): (73.370, -0.035, -0.013, -0.016),
    ("MoCo", "Categorical Feature Module"): None,
    ("MultiBalance", "Shared Representation"): (0.42, 0.091, -0.014, -0.032),
}

# Table 3: method -> average NE gain of Feeds A and B, NE gains of CVR, Conv|imp and CTR on ads,
# and their average, in per cent; None: loss explosion.
METHODS: dict[str, tuple[float | None, float, float, float, float, float]] = {
    "Uncertainty": (0.291, 0.488, 0.111, -0.154, -0.200, -0.081),
    "PCGrad": (0.200, 0.213, -0.100, -0.154, -0.222, -0.159),
    "Gradient Vaccine": (None, 0.175, -0.016, -0.026, 0.000, -0.014),
    "Gradient Drop": (-0.092, 0.362, -0.079, -0.090, -0.062, -0.077),
    "DB-MTL": (0.390, 0.522, 0.048, -0.103, -0.112, -0.056),
    "IMTLG": (-0.273, 0.110, 0.063, -0.090, -0.162, -0.063),
    "MultiBalance remove EMA": (0.476, -0.122, -0.007, -0.124, -0.143, -0.091),
    "MultiBalance": (0.476, 0.738, 0.091, -0.014, -0.032, 0.015),
}

# Table 4: learning rate of the weights -> average NE gain of Feeds A and B, in per cent.
RATES = {1.0: (0.34, 0.38), 2.0: (0.30, 0.59), 5.0: (0.48, 0.74), 10.0: (0.41, 0.55)}

# Section 5: the rates that the paper chose.
ADS_RATE, FEEDS_RATE = 1.0, 5.0

# The order of the paper's columns, in the names of our tasks.
ADS_TASKS = {"CVR": "cvr", "Conv|imp": "conv_imp", "CTR": "ctr"}

# Section 5.4: where the weights of the ads model settle.
WEIGHTS = {"ctr": 0.25, "cvr": 0.4, "conv_imp": 0.35}
