"""Load tests of the service: Locust, an open-loop driver, and a sweep over concurrency and rate."""
