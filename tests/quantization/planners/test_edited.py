import json

import pytest

from stablequant.foundation.errors import InputError
from stablequant.foundation.options import CalibrateOptions
from stablequant.models.checkpoint.verify import problems
from stablequant.quantization.plan.plan import read_plan
from stablequant.quantization.search import trials
from stablequant.workflows.calibrate import calibrate

SITE = "wav2vec2.encoder.layers.0.attention.q_proj"
FIRST = "wav2vec2.feature_extractor.conv_layers.0.conv"


@pytest.fixture
def apply(calibrated, float_folder, speech, tmp_path):
    """Edit the plan of the calibrated model, apply it; gives the new folder."""

    def edited(change=lambda _data: None, **options):
        data = json.loads((calibrated[0] / "plan.json").read_text())
        change(data)
        path = tmp_path / "edited.json"
        path.write_text(json.dumps(data))
        calibrate(CalibrateOptions(str(float_folder), str(speech), str(tmp_path / "q"), plan=str(path), **options))
        return tmp_path / "q"

    return edited


def site(change):
    return lambda data: change(data["sites"][SITE])


def without(entry, *names):
    for name in names:
        entry.pop(name)


def test_a_plan_that_nobody_edited_gives_the_same_weights(apply, calibrated):
    made = apply()
    assert (made / "model.safetensors").read_bytes() == (calibrated[0] / "model.safetensors").read_bytes()
    before, after = read_plan(calibrated[0]), read_plan(made)
    assert (after.sites, after.layers, after.score) == (before.sites, before.layers, before.score)
    assert after.calibration["float_passes"] < before.calibration["float_passes"]
    assert problems(made) == []


def test_nothing_is_searched(apply, monkeypatch):
    stages = []
    run = trials.Trials.run
    keep = lambda self, stage, trials: (stages.append(stage), run(self, stage, trials))[1]  # noqa: E731
    monkeypatch.setattr(trials.Trials, "run", keep)
    apply()
    assert stages == ["verify"]


def test_a_range_gives_the_scale_and_the_evidence(apply, calibrated):
    def narrow(entry):
        entry.update(low=-0.5, high=0.75)
        without(entry, "scale", "zero_point", "method")

    with (
        pytest.warns(UserWarning, match=r"do not fit the inputs \(1: .*q_proj: 5\d % of the values are out"),
        pytest.warns(
            UserWarning,
            match=r"k_proj, q_proj, v_proj share an input but have different ranges .*\(1: .*0.attention\), so",
        ),
    ):
        made = apply(site(narrow))
    read = read_plan(made).sites[SITE].input
    assert (read.low, read.high, read.zero_point) == (-0.5, 0.75, 102)
    assert read.scale == pytest.approx(1.25 / 255)
    before, after = (read_plan(each).sites[SITE].measured for each in (calibrated[0], made))
    assert after.clipped_share > before.clipped_share
    assert after.input_sqnr_db < before.input_sqnr_db


def test_a_score_that_got_worse_is_told(apply):
    def ruin(data):
        for entry in data["sites"].values():
            if "low" in entry:
                entry.update(low=0.0, high=1e-3)
                without(entry, "scale", "zero_point", "method")

    with (
        pytest.warns(UserWarning, match=r"the score of the whole plan is \d+\.\d\d; before the edit it was \d+\.\d\d"),
        pytest.warns(UserWarning, match=r"do not fit the inputs \(\d\d: .*, \.\.\.: "),
    ):
        apply(ruin)


def test_a_mid_rise_grid_is_kept(apply, calibrated):
    name = FIRST.replace("0.conv", "1.conv")
    made = apply(lambda data: data["sites"][name].update(mid_rise=True))
    read = read_plan(made).sites[name].input
    assert read.mid_rise
    assert read.exact_zero == read.zero_point - 0.5
    assert problems(made) == []


def test_without_a_range_the_method_finds_it(apply, calibrated):
    change = lambda entry: without(entry, "low", "high", "scale", "zero_point")  # noqa: E731
    assert read_plan(apply(site(change))).sites[SITE] == read_plan(calibrated[0]).sites[SITE]


def test_fewer_bits_for_a_site(apply, calibrated):
    def fewer(entry):
        entry.update(weight_bits=4, input_bits=6)
        without(entry, "scale", "zero_point")

    with (
        pytest.warns(UserWarning, match=r"low-bit weights \(1: .*q_proj\) are rounded to nearest"),
        pytest.warns(UserWarning, match="share an input but have different ranges for it"),
        pytest.warns(UserWarning, match=r"so their method is ignored \(1: .*q_proj: mse\)"),
    ):
        made = apply(site(fewer))
    before, after = read_plan(calibrated[0]).sites[SITE], read_plan(made).sites[SITE]
    assert (after.weight.format.bits, after.input.bits, after.input.low) == (4, 6, before.input.low)
    assert after.weight.rounding == "nearest"
    assert after.measured.weight_sqnr_db < before.measured.weight_sqnr_db - 10
    assert after.input.scale == pytest.approx(before.input.scale * 255 / 63)
    assert problems(made) == []


def test_a_site_with_a_reason_stays_in_float(apply):
    made = apply(site(lambda entry: entry.update(reason="by hand")))
    entry = json.loads((made / "plan.json").read_text())["sites"][SITE]
    assert entry == {"layer": "wav2vec2.encoder.layers.0", "kind": "linear", "reason": "by hand"}
    assert SITE not in json.loads((made / "config.json").read_text())["quantization_config"]["sites"]
    assert problems(made) == []


WRONG = {
    "unknown site": (
        lambda d: d["sites"].update({"lm_foot": d["sites"]["lm_head"]}),
        "lm_foot: the model has no such",
    ),
    "missing site": (lambda d: d["sites"].pop(SITE), f"{SITE}: is not in the plan"),
    "low above high": (site(lambda e: e.update(low=3.0, high=-3.0)), f"{SITE}: low 3 is above high -3"),
    "without 0": (site(lambda e: e.update(low=3.0, high=8.0)), f"{SITE}: the range from 3 to 8 does not contain 0"),
    "below 0": (site(lambda e: e.update(low=-3.0, high=-1.0)), "does not contain 0, which must be exact"),
    "method beside a range": (site(lambda e: e.update(method="mxa")), f"{SITE}: method is 'mxa'; write one of max"),
    "only low": (site(lambda e: e.pop("high")), f"{SITE}: has low but not both low and high"),
    "only scale": (site(lambda e: without(e, "low", "high", "zero_point")), f"{SITE}: has scale but not both"),
    "another scale": (site(lambda e: e.update(scale=0.5)), f"{SITE}: scale 0.5 and zero_point"),
    "another zero point": (site(lambda e: e.update(zero_point=0)), "delete scale and zero_point"),
    "another range": (site(lambda e: e.update(low=-9.0)), "delete scale and zero_point"),
    "too wide": (site(lambda e: e.update(low=-1e300)), "too wide for float32"),
    "bits": (site(lambda e: e.update(weight_bits=9)), f"{SITE}: weight_bits is 9; it must be 2 to 8"),
    "no bits": (site(lambda e: e.pop("input_bits")), f"{SITE}: input_bits is None"),
    "share": (site(lambda e: e.update(clip_percent=100)), f"{SITE}: clip_percent is 100"),
    "layer": (site(lambda e: e.update(layer="lm_head")), f"{SITE}: is a linear of layer wav2vec2.encoder.layers.0"),
    "weights": (site(lambda e: e.update(weight_method="mze")), f"{SITE}: weight_method is 'mze'; write one of max"),
    "rounding": (site(lambda e: e.update(rounding="down")), f"{SITE}: rounding is 'down'; write one of"),
    "sparsity": (site(lambda e: e.update(weight_sparsity="3:4")), f"{SITE}: weight_sparsity is '3:4'; it must be one"),
    "sparsity of a grouped convolution": (
        lambda d: d["sites"]["wav2vec2.encoder.pos_conv_embed.conv"].update(weight_sparsity="2:4"),
        "pos_conv_embed.conv: is grouped, or its 16 inputs are no multiple of 4; delete weight_sparsity",
    ),
    "method": (
        site(lambda e: (without(e, "low", "high", "scale", "zero_point"), e.update(method="hand"))),
        f"{SITE}: has no range, and 'hand' is not a method",
    ),
    "a site for float": (
        lambda d: d["sites"].update({FIRST: {**d["sites"][SITE], "kind": "conv"}}),
        f"{FIRST}: cannot be quantized (reads the waveform",
    ),
    "mid-rise": (site(lambda e: e.update(mid_rise=True)), f"{SITE}: mid_rise is for convolutions without padding"),
    "scheme": (lambda d: d.update(scheme="w4a4"), "no site has the bits of the scheme w4a4"),
    "methods": (lambda d: d.update(method="foo"), "method is 'foo'; write one of stable, max"),
    "empty reason": (site(lambda e: e.update(reason=" ")), f"{SITE}: its reason to stay in float is empty"),
    "no scheme": (lambda d: d.update(scheme="int8"), "scheme 'int8'"),
    "word for a number": (site(lambda e: e.update(low="-1")), "low is '-1', not a finite number"),
    "all in float": (lambda d: [e.update(reason="no") for e in d["sites"].values()], "no site has the bits"),
}


@pytest.mark.parametrize("change", WRONG)
def test_a_plan_that_contradicts_itself_is_one_sentence(change, apply, tmp_path):
    change, message = WRONG[change]
    with pytest.raises(InputError) as error:
        apply(change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["edited.json"]


def test_rounding_that_is_deleted_is_the_one_of_the_bits(apply):
    def four_bits(entry):
        entry.update(weight_bits=4, weight_group=32, weight_asymmetric=True)
        entry.pop("rounding")

    made = read_plan(apply(site(four_bits)))
    assert made.sites[SITE].weight.rounding == "compensated"
    assert made.sites[SITE].stored_as == "w4g32za8"
    assert made.sites["lm_head"].weight.rounding == "nearest"


def interrupted(*_):
    raise KeyboardInterrupt


def test_resuming_with_another_plan_is_refused(apply, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(trials, "run_trials", interrupted)
        with pytest.raises(KeyboardInterrupt):
            apply()
    with pytest.raises(InputError, match="started with another model"):
        apply(site(lambda entry: entry.update(reason="by hand")), resume=True)
    apply(resume=True)


def test_a_plan_from_the_shell(calibrated, float_folder, speech, tmp_path, shell):
    command = ["calibrate", float_folder, "--data", speech, "--out", tmp_path / "q", "--plan", tmp_path / "plan.json"]
    data = json.loads((calibrated[0] / "plan.json").read_text())
    data["sites"][SITE]["low"] = -77.0
    (tmp_path / "plan.json").write_text(json.dumps(data))
    done = shell(*command)
    assert done.returncode == 3
    assert done.stderr.startswith(f"Error: {tmp_path}/plan.json: {SITE}: scale ")
    assert len(done.stderr.splitlines()) == 1
    done = shell(*command[:-1], calibrated[0])
    assert done.returncode == 0, done.stderr
    assert "w8a8, stable: 21 of 22 sites quantized" in done.stdout


def test_a_range_that_its_method_does_not_find_is_by_hand(apply, calibrated):
    name = FIRST.replace("0.conv", "1.conv")

    def other_method(data):
        data["sites"][name].update(method="max", clip_percent=None)

    with pytest.warns(UserWarning, match=r"so their method is ignored \(1: .*1.conv: max\)"):
        made = read_plan(apply(other_method)).sites[name].input
    before = read_plan(calibrated[0]).sites[name].input
    assert (made.method, made.low, made.high) == (None, before.low, before.high)


@pytest.fixture(scope="module", params=["w4a8", "w3a6", "mixed"])
def packed(request, tmp_path_factory, float_folder, speech):
    """A folder with weights of fewer bits, not to be changed."""
    out = tmp_path_factory.mktemp("packed") / "q"
    limit = {"avg_bits": 4.0, "group_size": None} if request.param == "mixed" else {}
    scheme = "w8a8" if request.param == "mixed" else request.param
    calibrate(CalibrateOptions(str(float_folder), str(speech), str(out), scheme=scheme, method="mse", **limit))
    return out


def test_a_plan_of_fewer_bits_gives_the_same_weights(packed, float_folder, speech, tmp_path):
    assert problems(packed) == []
    calibrate(CalibrateOptions(str(float_folder), str(speech), str(tmp_path / "q"), plan=str(packed)))
    assert (tmp_path / "q" / "model.safetensors").read_bytes() == (packed / "model.safetensors").read_bytes()
    assert read_plan(tmp_path / "q").sites == read_plan(packed).sites
    assert problems(tmp_path / "q") == []
