"""What samples must satisfy: a mean, a variance. False alarms: below 1e-6 a requirement."""

import math

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-6


def require_mean(samples, truth):
    samples = np.asarray(samples)
    z = (samples.mean() - truth) / (samples.std(ddof=1) / math.sqrt(len(samples)))
    assert abs(z) < stats.t.ppf(1 - FALSE_ALARM / 2, len(samples) - 1), z


def require_variance(samples, truth):
    """The chi-squared law, its degrees of freedom reduced by the kurtosis that was found."""
    samples = np.asarray(samples)
    excess = stats.kurtosis(samples, fisher=True)
    freedom = (len(samples) - 1) / (1 + excess / 2)
    ratio = samples.var(ddof=1) / truth * freedom
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], freedom)
    assert low < ratio < high, samples.var(ddof=1) / truth
