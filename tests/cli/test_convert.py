"""``spikeloom convert``."""

import json

import pytest
import torch

from spikeloom import convert

transformers = pytest.importorskip("transformers")
SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
WORDS = [*SPECIAL, "the", "cat", "sat", "on", "mat", "and", "a", "dog", "ran"]


@pytest.fixture
def bert(folder):
    """A Hugging Face folder with a small model and its tokenizer, and texts."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    transformers.BertForMaskedLM(config).save_pretrained("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer("vocab.txt").save_pretrained("bert")
    (folder / "texts.txt").write_text("the cat sat on the mat\n\na dog ran and the cat ran\n")
    return folder / "bert"


def test_a_hugging_face_folder_becomes_another_one(bert, spikeloom):
    options = ["--steps", 10, "--calibration", "texts.txt", "-o", "out", "--json"]
    done = spikeloom("convert", "bert", *options)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["title"] == "LAS conversion"
    tokenizer = transformers.AutoTokenizer.from_pretrained("out")
    ann = transformers.BertForMaskedLM.from_pretrained("bert").eval()
    snn = convert.load_las("out")
    ids = tokenizer("the dog sat on a mat", return_tensors="pt")
    with torch.no_grad():
        expected, found = (net(**ids).logits for net in (ann, snn))
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_each_line_of_a_text_file_is_a_batch_that_was_calibrated_on(bert, spikeloom):
    from spikeloom_cli.data import load_batches

    first, second = load_batches("calibration", "texts.txt", "bert", tokens=6)
    assert first["input_ids"].shape == second["input_ids"].shape == (1, 6)


def test_the_converted_folder_is_inspected_as_a_tree(bert, spikeloom):
    spikeloom("convert", "bert", "--calibration", "texts.txt", "--steps", 5, "-o", "out")
    done = spikeloom("inspect", "out")
    assert done.exit_code == 0, done.stderr
    assert "Converted by LAS" in done.stdout and "kind site  steps 5" in done.stdout
    assert "BertForMaskedLM" in done.stdout


def test_other_arguments_reach_the_method(bert, spikeloom):
    options = ["--calibration", "texts.txt", "-o", "out", "--set", "extra_steps=2", "--steps", 4]
    spikeloom("convert", "bert", *options)
    done = spikeloom("inspect", "out")
    assert "steps 4" in done.stdout and "steps 6" in done.stdout


def test_a_plain_network_is_converted_by_signgd(folder, spikeloom):
    torch.save(torch.randn(64, 6), "images.pt")
    options = ["--method", "signgd", "--steps", 32, "--calibration", "images.pt", "-o", "out"]
    done = spikeloom("convert", "models:ann", *options)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("signGD conversion")
    import models

    torch.manual_seed(0)
    ann, x = models.ann(), torch.randn(8, 6)
    snn = torch.load("out/network.pt", weights_only=False)
    assert snn.steps == 32 and (snn(x) - ann(x)).abs().max() < 0.01
    assert "signGD conversion" in spikeloom("inspect", "out", "--table").stdout


def test_a_network_that_was_saved_whole_is_read_only_if_it_is_trusted(folder, spikeloom):
    torch.save(torch.randn(64, 6), "images.pt")
    options = ["--method", "signgd", "--steps", 8, "--calibration", "images.pt", "-o", "out"]
    spikeloom("convert", "models:ann", *options)
    export = [
        "export",
        "out",
        "--sample",
        "images.pt",
        "-o",
        "net.nir",
        "--on-inexact",
        "extension",
    ]
    done = spikeloom(*export)
    assert done.exit_code == 2 and "--trust-pickle" in done.stderr
    done = spikeloom(*export, "--target", "nir", "--trust-pickle")
    assert "is a pickle" not in done.stderr


def test_spikelm_needs_no_calibration(bert, spikeloom):
    done = spikeloom("convert", "bert", "--method", "spikelm", "--steps", 2, "-o", "out")
    assert done.exit_code == 0, done.stderr
    assert convert.SpikeLM.from_pretrained("out").config.spikelm["steps"] == 2
    assert "steps  value 2" in spikeloom("inspect", "out").stdout


def test_what_does_not_fit_is_refused(bert, spikeloom):
    texts = ["--calibration", "texts.txt"]
    for options, message in [
        ([], "calibration: las needs batches; give --calibration"),
        ([*texts, "--set", "range=6"], "LAS: got an unexpected keyword argument 'range'"),
        ([*texts, "--steps", 99], "LAS"),
        (["--calibration", "none.txt"], "calibration: there is no file none.txt"),
    ]:
        done = spikeloom("convert", "bert", "-o", "out", *options)
        assert done.exit_code == 2 and message in done.stderr
    done = spikeloom("convert", "models:ann", "-o", "out", *texts)
    assert done.exit_code == 2 and "texts need the tokenizer" in done.stderr
