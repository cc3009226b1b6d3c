"""What every test shares: property tests have no clock, since a loaded machine is no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile("agl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agl")
