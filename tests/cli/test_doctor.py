"""``spikeloom doctor``."""

import json


def test_the_doctor_prints_a_table_or_json(spikeloom):
    done = spikeloom("doctor")
    assert done.exit_code == 0 and "device cpu" in done.stdout
    assert json.loads(spikeloom("doctor", "--json").stdout)["title"] == "spikeloom doctor"
