/** What callers from plain JavaScript get wrong: each is one error of the library with a stable code, before anything is computed or written. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import * as graft from "../mod.ts";

// deno-lint-ignore no-explicit-any -- wrong types are the point
const g = graft as any;

const CONFIG = {
  model_type: "llama",
  vocab_size: 37,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 3,
  max_position_embeddings: 16,
};
const GPT2 = { model_type: "gpt2", vocab_size: 37, n_embd: 24, n_layer: 1, n_head: 3 };
const BATCH = { inputIds: [[1, 2, 3]] };

type Case = readonly [label: string, code: string, misuse: () => unknown];

/** Runs misuses, which may use a folder, and sees that each is refused and leaves nothing in that folder. */
function refused(title: string, cases: (folder: string) => Promise<readonly Case[]>): void {
  Deno.test(title, async () => {
    const folder = await Deno.makeTempDir();
    await Deno.writeTextFile(`${folder}/file`, "");
    const all = await cases(folder);
    const before = names(folder);
    for (const [label, code, misuse] of all) {
      let found: unknown;
      try {
        await misuse();
      } catch (error) {
        found = error;
      }
      assert(
        found instanceof graft.GraftError || found instanceof graft.ArgumentTypeError,
        `${label}: ${found ?? "no error"}`,
      );
      assertEquals(found.code, code, `${label}: ${found.message}`);
      assert(found.message.length > 10 && !found.message.includes("[object"), found.message);
      assertEquals(names(folder), before, label);
    }
    await Deno.remove(folder, { recursive: true });
  });
}

function names(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name)
    .filter((name) => !name.startsWith("variant-")).sort();
}

async function models() {
  const base = await graft.createModel(CONFIG, { device: "cpu", threads: 1 });
  const model = graft.getPeftModel(base, graft.loraConfig({ r: 2, initLoraWeights: false }));
  return { base, model, device: base.device };
}

refused("token ids, masks, positions and labels", async () => {
  const { model, device } = await models();
  const gpt2 = await graft.createModel({ ...GPT2, n_positions: 8 }, { device });
  const forward = (inputIds: unknown, rest: object = {}) => g.forward(model, { inputIds, ...rest });
  const longs = (...values: bigint[]) =>
    graft.tensor(BigInt64Array.from(values), { shape: [1, values.length] });
  return [
    ["no inputs", "FORWARD_INPUT", () => g.forward(model)],
    ["no ids", "BATCH_SHAPE", () => g.forward(model, {})],
    ["other inputs", "FORWARD_INPUT", () => forward([[1]], { taskIds: [0] })],
    ["too many rows' adapters", "ADAPTER_ROWS", () => forward([[1]], { adapterNames: ["a", "b"] })],
    ["a row's adapter unknown", "ADAPTER_UNKNOWN", () => forward([[1]], { adapterNames: ["a"] })],
    ["no model", "NOT_A_MODEL", () => g.forward(undefined, BATCH)],
    ["a promise", "NOT_A_MODEL", () => g.forward(Promise.resolve(model), BATCH)],
    ["text", "BATCH_SHAPE", () => forward("hello")],
    ["one dimension", "BATCH_SHAPE", () => forward([1, 2, 3])],
    ["a hole", "BATCH_SHAPE", () => forward([null])],
    ["no rows", "BATCH_SHAPE", () => forward([])],
    ["uneven rows", "BATCH_SHAPE", () => forward([[1, 2], [3]])],
    ["a fraction", "BATCH_VALUE", () => forward([[1.5, 2]])],
    ["NaN", "BATCH_VALUE", () => forward([[NaN]])],
    ["a string", "BATCH_VALUE", () => forward([["1"]])],
    ["a fraction in a tensor", "BATCH_VALUE", () => forward(graft.tensor([[1.5]]))],
    ["33 bits", "BATCH_VALUE", () => forward(longs(4294967297n))],
    ["a bigint out of range", "TOKEN_ID_RANGE", () => forward(longs(37n))],
    ["too high", "TOKEN_ID_RANGE", () => forward([[1, 37]])],
    ["negative", "TOKEN_ID_RANGE", () => forward([[-1]])],
    ["a mask of 2", "BATCH_VALUE", () => forward([[1, 2]], { attentionMask: [[1, 2]] })],
    ["another shape", "BATCH_SHAPE", () => forward([[1, 2]], { attentionMask: [[1]] })],
    ["position −1", "BATCH_VALUE", () => forward([[1, 2]], { positionIds: [[-1, 0]] })],
    ["label 37", "TOKEN_ID_RANGE", () => forward([[1, 2]], { labels: [[1, 37]] })],
    ["label −1", "TOKEN_ID_RANGE", () => forward([[1, 2]], { labels: [[1, -1]] })],
    ["label 1.5", "BATCH_VALUE", () => forward([[1, 2]], { labels: [[1, 1.5]] })],
    ["beyond a table", "POSITION_RANGE", () => g.forward(gpt2, { inputIds: [Array(9).fill(1)] })],
  ];
});

Deno.test("ids may be bigints, in lists and in tensors", async () => {
  const { model } = await models();
  const values = async (inputIds: unknown) =>
    await (await g.forward(model, { inputIds })).logits.data();
  const plain = await values([[1, 36]]);
  assertEquals(await values([[1n, 36n]]), plain);
  assertEquals(await values(graft.tensor(BigInt64Array.of(1n, 36n), { shape: [1, 2] })), plain);
  assertEquals(await values(graft.tensor(Uint8Array.of(1, 36), { shape: [1, 2] })), plain);
});

refused("what tasks and methods take of a batch", async () => {
  const { base, model, device } = await models();
  const bert = { ...CONFIG, model_type: "bert" };
  const forTask = (taskType: string) => g.createModel(bert, { device, taskType, numLabels: 3 });
  const texts = await forTask("SEQ_CLS"), tokens = await forTask("TOKEN_CLS");
  const answers = await forTask("QUESTION_ANS"), features = await forTask("FEATURE_EXTRACTION");
  const poly = graft.getPeftModel(
    base,
    graft.polyConfig({ nTasks: 2, targetModules: ["layers.0.self_attn.q_proj"] }),
  );
  const forward = (of: unknown, parts: object) => () => g.forward(of, { ...BATCH, ...parts });
  const drawn = (noise: unknown) => forward(poly, { taskIds: [0], noise });
  const train = (of: graft.ModelGraph) => () =>
    g.train(graft.getPeftModel(of, graft.loraConfig()), [BATCH], { learningRate: 1e-3 });
  const one = graft.tensor([1]);
  return [
    ["token types", "FORWARD_INPUT", forward(base, { tokenTypeIds: [[0, 0, 0]] })],
    ["a third type", "BATCH_VALUE", forward(texts, { tokenTypeIds: [[0, 2, 0]] })],
    ["a fourth class", "BATCH_VALUE", forward(texts, { labels: [3] })],
    ["class −1", "BATCH_VALUE", forward(texts, { labels: [-1] })],
    ["a token of class −1", "BATCH_VALUE", forward(tokens, { labels: [[0, -1, -100]] })],
    ["two of three labels", "BATCH_SHAPE", forward(texts, { labels: [[1, 0]] })],
    ["half a class", "BATCH_VALUE", forward(texts, { labels: [0.5] })],
    ["a class for all tokens", "BATCH_SHAPE", forward(tokens, { labels: [0, 1, 2] })],
    ["a start alone", "LABELS_MISSING", forward(answers, { startPositions: [0] })],
    ["labels of answers", "FORWARD_INPUT", forward(answers, { labels: [0] })],
    ["labels of features", "FORWARD_INPUT", forward(features, { labels: [0] })],
    ["nothing to learn", "LABELS_MISSING", train(texts)],
    ["no task", "OBJECTIVE", train(features)],
    ["text of a classifier", "GENERATE_UNSUPPORTED", () => g.generate(texts, [1])],
    ["no task ids", "BATCH_MISSING", forward(poly, {})],
    ["a third task", "BATCH_VALUE", forward(poly, { taskIds: [2] })],
    ["two tasks for a row", "BATCH_SHAPE", forward(poly, { taskIds: [0, 1] })],
    ["task ids for a LoRA", "FORWARD_INPUT", forward(model, { taskIds: [0] })],
    ["no task ids to write", "BATCH_MISSING", () => g.generate(poly, [1])],
    ["noise of a base", "FORWARD_INPUT", forward(base, { noise: {} })],
    ["a number for noise", "FORWARD_INPUT", drawn(5)],
    ["numbers for noise", "FORWARD_INPUT", drawn({ x: [1] })],
    ["no noise", "NOISE", drawn({})],
    ["noise of another name", "NOISE", drawn({ x: one })],
    ["noise for a LoRA", "NOISE", forward(model, { noise: { x: one } })],
  ];
});

refused("the configs of methods", async () => {
  const { base } = await models();
  const make = (config: () => graft.PeftConfig) => () => graft.getPeftModel(base, config());
  return [
    ["no tasks", "CONFIG_FIELD_TYPE", () => g.polyConfig({ nTasks: 0 })],
    ["splits", "CONFIG_POLY_SPLITS", make(() => g.polyConfig({ nSplits: 5 }))],
    ["two sizes", "CONFIG_OFT_BLOCKS", () => g.oftConfig({ r: 2 })],
    ["no steps", "CONFIG_ADALORA", () => g.adaLoraConfig()],
    ["no tokens", "TOKENS_RANGE", make(() => g.trainableTokensConfig())],
    ["a token", "TOKENS_RANGE", make(() => g.trainableTokensConfig({ tokenIndices: [37] }))],
    ["no length", "CONFIG_SIZE", make(() => g.promptTuningConfig())],
    ["no text", "CONFIG_PROMPT_TEXT", () => g.promptTuningConfig({ promptTuningInit: "TEXT" })],
    ["no vectors", "CONFIG_ADAPTION", make(() => g.adaptionPromptConfig())],
    [
      "nine layers",
      "CONFIG_ADAPTION",
      make(() => g.adaptionPromptConfig({ adapterLen: 1, adapterLayers: 9 })),
    ],
    ["layers", "CONFIG_UNKNOWN_FIELD", () => g.lnTuningConfig({ layersToTransform: [0] })],
    ["a block", "TARGET_KIND", make(() => g.lnTuningConfig({ targetModules: ["layers.0.mlp"] }))],
  ];
});

refused("models and devices", async (folder) => {
  const { base, model, device } = await models();
  const create = (change: object) => g.createModel({ ...CONFIG, ...change }, { device });
  return [
    ["no config", "MODEL_CONFIG", () => g.createModel()],
    ["no model_type", "ARCHITECTURE_UNKNOWN", () => create({ model_type: undefined })],
    ["a text for a size", "MODEL_CONFIG", () => create({ hidden_size: "24" })],
    ["half a layer", "MODEL_CONFIG", () => create({ num_hidden_layers: 1.5 })],
    ["no vocabulary", "MODEL_CONFIG", () => create({ vocab_size: 0 })],
    ["heads that do not divide", "MODEL_CONFIG", () => create({ num_attention_heads: 5 })],
    ["key heads", "MODEL_CONFIG", () => create({ num_key_value_heads: 2 })],
    ["an odd head", "MODEL_CONFIG", () => create({ head_dim: 7 })],
    ["an activation", "MODEL_CONFIG", () => create({ hidden_act: "softplus" })],
    ["a tie", "MODEL_CONFIG", () => create({ tie_word_embeddings: "false" })],
    ["a bias", "MODEL_CONFIG", () => create({ attention_bias: "no" })],
    ["an epsilon", "MODEL_CONFIG", () => create({ rms_norm_eps: "1e-5" })],
    ["a negative epsilon", "MODEL_CONFIG", () => create({ rms_norm_eps: -1e-5 })],
    ["a negative base", "MODEL_CONFIG", () => create({ rope_theta: -1e4 })],
    ["no base", "MODEL_CONFIG", () => create({ rope_theta: 0 })],
    ["a negative dropout", "MODEL_CONFIG", () => create({ attention_dropout: -0.1 })],
    ["too much dropout", "MODEL_CONFIG", () => create({ attention_dropout: 1.5 })],
    ["a negative deviation", "MODEL_CONFIG", () => create({ initializer_range: -0.02 })],
    ["a part", "MODEL_CONFIG", () => create({ partial_rotary_factor: 1.5 })],
    ["an odd part", "ROPE_PARAMETER", () => create({ partial_rotary_factor: 0.1 })],
    ...([
      { rope_type: "linear", factor: -2 },
      { rope_type: "dynamic", factor: "2" },
      { rope_type: "yarn", factor: 0 },
      { rope_type: "yarn", factor: 2, attention_factor: -1 },
      { rope_type: "llama3", factor: 8, low_freq_factor: 0, high_freq_factor: 4 },
      { rope_type: "longrope", factor: 2, short_factor: [1, 0, 1], long_factor: [1, 1, 1] },
    ].map((scaling): Case => [
      `rope of ${JSON.stringify(scaling)}`,
      "ROPE_PARAMETER",
      async () => g.forward(await create({ rope_scaling: scaling }), BATCH),
    ])),
    ["gpt2's heads", "MODEL_CONFIG", () => g.createModel({ ...GPT2, n_head: 5 }, { device })],
    ["a window", "MODEL_CONFIG", () => create({ model_type: "mistral", sliding_window: "4" })],
    ["theta", "MODEL_CONFIG", () => create({ rope_theta: "1e4" })],
    ["rope", "ROPE_PARAMETER", () => create({ rope_scaling: "x" })],
    ["a device", "DEVICE_NAME", () => g.createModel(CONFIG, { device: "gpu" })],
    ["no device", "DEVICE_NAME", () => g.createModel(CONFIG, { device: 5 })],
    ["threads", "LOAD_OPTION", () => g.createModel(CONFIG, { device: "cpu", threads: -1 })],
    ["a seed", "LOAD_OPTION", () => g.createModel(CONFIG, { device, seed: 0.5 })],
    ["a task", "LOAD_OPTION", () => g.createModel(CONFIG, { device, taskType: "CLS" })],
    ["labels", "LOAD_OPTION", () => g.createModel(CONFIG, { device, numLabels: 0 })],
    ["families", "LOAD_OPTION", () => g.createModel(CONFIG, { device, architectures: [{}] })],
    [
      "no head",
      "TASK_UNSUPPORTED",
      () => g.createModel(GPT2, { device, taskType: "SEQ_2_SEQ_LM" }),
    ],
    ["tiny", "LOAD_OPTION", () => g.tinyModel({ sede: 1 })],
    ["no source", "PATH", () => g.loadModel()],
    ["torch's name", "LOAD_OPTION", () => g.loadModel(folder, { device, dtype: "float16" })],
    ["Python's option", "LOAD_OPTION", () => g.loadModel(folder, { torch_dtype: "f16" })],
    ["adapters in saveModel", "NOT_A_BASE", () => g.saveModel(model, `${folder}/x`)],
    ["a file", "NOT_A_FOLDER", () => g.saveModel(base, `${folder}/file`)],
    ["below a file", "WRITE_FAILED", () => g.saveModel(base, `${folder}/file/x`)],
    ["a shard size", "SAVE_OPTION", () => g.saveModel(base, `${folder}/x`, { maxShardSize: 0 })],
    ["nothing else there", "FILE_NOT_FOUND", () => graft.openSafetensors(`${folder}/x`)],
  ];
});

refused("adapters", async (folder) => {
  const { base, model, device } = await models();
  await graft.savePretrained(model, `${folder}/a`);
  const text = await Deno.readTextFile(`${folder}/a/adapter_config.json`);
  const load = (change: (config: string) => string) => async () => {
    const changed = await Deno.makeTempDir({ dir: folder, prefix: "variant-" });
    await Deno.copyFile(
      `${folder}/a/adapter_model.safetensors`,
      `${changed}/adapter_model.safetensors`,
    );
    await Deno.writeTextFile(`${changed}/adapter_config.json`, change(text));
    return await graft.loadAdapter(base, changed);
  };
  const other = await graft.createModel(GPT2, { device });
  const config = graft.loraConfig();
  const scale = (factor: unknown, fn: unknown = () => 1) => g.withAdapterScale(model, factor, fn);
  return [
    ["no config", "CONFIG_TYPE", () => g.getPeftModel(base)],
    ["only fields", "CONFIG_TYPE", () => g.getPeftModel(base, { r: 4 })],
    ["no base", "NOT_A_MODEL", () => g.getPeftModel(undefined, config)],
    ["twice", "ALREADY_PEFT", () => g.getPeftModel(model, config)],
    ["a seed", "SEED", () => g.getPeftModel(base, config, { seed: 1.5 })],
    ["rank NaN", "CONFIG_FIELD_TYPE", () => graft.loraConfig({ r: NaN })],
    ["alpha NaN", "CONFIG_FIELD_TYPE", () => graft.loraConfig({ loraAlpha: NaN })],
    ["a text for a rank", "CONFIG_FIELD_TYPE", () => g.loraConfig({ r: "8" })],
    ["Python's name", "CONFIG_UNKNOWN_FIELD", () => g.loraConfig({ lora_alpha: 8 })],
    [
      "no targets",
      "TARGETS_EMPTY",
      () => g.getPeftModel(base, g.loraConfig({ targetModules: [] })),
    ],
    ["on a base", "NOT_PEFT", () => g.addAdapter(base, "x", config)],
    ["no name", "ADAPTER_NAME", () => g.addAdapter(model, undefined, config)],
    ["a name with a dot", "ADAPTER_NAME", () => g.addAdapter(model, "a.b", config)],
    ["a taken name", "ADAPTER_EXISTS", () => g.addAdapter(model, "default", config)],
    ["a typo", "ADAPTER_UNKNOWN", () => g.setAdapter(model, "defualt")],
    ["nothing", "ADAPTER_UNKNOWN", () => g.setAdapter(model)],
    ["a number", "ADAPTER_UNKNOWN", () => g.setAdapter(model, 5)],
    ["null in a list", "ADAPTER_UNKNOWN", () => g.setAdapter(model, [null])],
    ["an empty list", "ADAPTER_LIST", () => g.setAdapter(model, [])],
    ["setAdapter on a base", "NOT_PEFT", () => g.setAdapter(base, "default")],
    ["disable on a base", "NOT_PEFT", () => g.disableAdapters(base)],
    ["delete a typo", "ADAPTER_UNKNOWN", () => g.deleteAdapter(model, "x")],
    ["scale NaN", "ADAPTER_SCALE", () => scale(NaN)],
    ["scale as text", "ADAPTER_SCALE", () => scale("0.5")],
    ["no scale", "ADAPTER_SCALE", () => scale(undefined)],
    ["no function", "SCOPE_FUNCTION", () => scale(0.5, null)],
    ["scale of a typo", "ADAPTER_UNKNOWN", () => scale({ nope: 1 })],
    ["merge of a base", "NOT_PEFT", () => g.mergeAndUnload(base)],
    ["merge to int8", "MERGE_OPTION", () => g.mergeAndUnload(model, { dtype: "i8" })],
    ["save of a base", "NOT_PEFT", () => g.savePretrained(base, folder)],
    ["no folder", "PATH", () => g.savePretrained(model)],
    ["a file", "NOT_A_FOLDER", () => g.savePretrained(model, `${folder}/file`)],
    ["below a file", "WRITE_FAILED", () => g.savePretrained(model, `${folder}/file/x`)],
    ["no source", "ADAPTER_SOURCE", () => g.loadAdapter(base)],
    ["no tensors", "ADAPTER_SOURCE", () => g.loadAdapter(base, { config: {} })],
    ["a trailing comma", "JSON_INVALID", load((c) => c.replace(/\n}$/, ",\n}"))],
    ["an empty config", "JSON_INVALID", load(() => "")],
    ["a key twice", "JSON_DUPLICATE_KEY", load((c) => c.replace('"r": 2', '"r": 2, "r": 4'))],
    ["no peft_type", "CONFIG_PEFT_TYPE", load(() => "{}")],
    ["an unknown peft_type", "METHOD_UNKNOWN", load((c) => c.replace('"LORA"', '"LORAX"'))],
    ["a field's type", "CONFIG_FIELD_TYPE", load((c) => c.replace('"r": 2', '"r": "2"'))],
    ["another field", "CONFIG_UNKNOWN_FIELD", load((c) => c.replace('"r": 2', '"r": 2, "s": 4'))],
    ["another architecture", "OTHER_BASE", () => graft.loadAdapter(other, `${folder}/a`)],
    ["a model for a program", "NOT_A_PROGRAM", () => g.exportOnnx(model)],
    ["a leaf", "LEAF_UNKNOWN", () => g.withLeaves(model, new Map([["x", g.tensor([1])]]))],
  ];
});

refused("the surface of models with adapters", async (folder) => {
  const { base, model } = await models();
  const config = graft.loraConfig({ r: 2 });
  const tensors = graft.getAdapterStateDict(model);
  const lora = graft.defaultMethods.get("LORA")!;
  const again = JSON.parse(JSON.stringify({ ...model, base: { ...base, device: null } }));
  const make = (options: unknown) => () => g.getPeftModel(base, config, options);
  const add = (options: unknown) => () => g.addAdapter(model, "x", config, options);
  const into = (map: unknown, options: unknown = {}) => () =>
    g.setAdapterStateDict(model, map, options);
  return [
    ["a model from JSON", "NOT_A_MODEL", () => g.setAdapter(again, "default")],
    ["a type alone", "NOT_A_MODEL", () => g.getModelStatus({ type: "peft" })],
    ["a base of nothing", "NOT_A_MODEL", () => g.planAdapter({ type: "model" }, config)],
    ["leaves of nothing", "NOT_A_MODEL", () => g.trainableLeaves(undefined)],
    ["train nothing", "NOT_A_MODEL", () => g.train(undefined, [BATCH], { learningRate: 1 })],
    ["hash nothing", "NOT_A_MODEL", () => g.hashBase(undefined)],
    ["hash a promise", "NOT_A_MODEL", () => g.hashBase(Promise.resolve(base))],
    ["a name in the place of options", "INJECT_OPTION", make("style")],
    ["an unknown option", "INJECT_OPTION", make({ sede: 1 })],
    ["no options", "INJECT_OPTION", add(null)],
    ["Python's option", "INJECT_OPTION", add({ low_cpu_mem_usage: true })],
    ["allowUnmatched", "INJECT_OPTION", add({ allowUnmatched: "yes" })],
    ["a registry", "INJECT_OPTION", make({ registry: {} })],
    ["the name of no adapter", "ADAPTER_NAME", make({ adapterName: "__base__" })],
    ["a symbol for a name", "ADAPTER_NAME", () => g.addAdapter(model, Symbol("x"), config)],
    ["a symbol", "ADAPTER_UNKNOWN", () => g.deleteAdapter(model, Symbol("x"))],
    ["a bigint", "ADAPTER_UNKNOWN", () => g.setAdapter(model, 5n)],
    ["requiresGrad", "REQUIRES_GRAD", () => g.setRequiresGrad(model, "default", "false")],
    ["no tensors", "TENSOR_MAP", into(undefined)],
    ["tensors in an object", "TENSOR_MAP", into(Object.fromEntries(tensors))],
    ["numbers for tensors", "TENSOR_MAP", into(new Map([["x", [1, 2]]]))],
    ["strict", "STATE_DICT_OPTION", into(tensors, { strict: "no" })],
    ["dictionary", "STATE_DICT_OPTION", () => g.getAdapterStateDict(model, "default", true)],
    ["leaves in a list", "TENSOR_MAP", () => g.withLeaves(model, [1])],
    ["a number for a leaf", "TENSOR_MAP", () => g.withLeaves(model, new Map([["x", 1]]))],
    [
      "one name to save",
      "SAVE_OPTION",
      () => g.savePretrained(model, `${folder}/x`, { selectedAdapters: "default" }),
    ],
    ["check options", "LOAD_OPTION", () => g.checkIfPeftModel(folder, { subfolder: 5 })],
    ["check nothing", "PATH", () => g.checkIfPeftModel(Symbol("x"), { strict: true })],
    ["hotswap options", "LOAD_OPTION", () => g.hotswapAdapter(model, folder, null)],
    ["plan options", "PLAN_OPTION", () => g.planAdapter(base, config, { regisrty: 1 })],
    ["write", "PRINT_OPTION", () => g.printTrainableParameters(model, { write: 1 })],
    ["a registry of nothing", "REGISTRY", () => g.methodOf("LORA", {})],
    ["register in nothing", "REGISTRY", () => g.registerPeftMethod(undefined, lora)],
    ["register nothing", "METHOD_ENTRY", () => g.registerPeftMethod(graft.defaultMethods)],
    ["a registry of one", "METHOD_ENTRY", () => g.createMethodRegistry(lora)],
    ["json of nothing", "CONFIG_TYPE", () => g.toPeftJson()],
    ["nothing from json", "CONFIG_PEFT_TYPE", () => g.fromPeftJson(null)],
    ["json options", "PEFT_JSON_OPTION", () => g.fromPeftJson({ peft_type: "LORA" }, null)],
    ["a bigint for a config", "CONFIG_TYPE", () => g.loraConfig(5n)],
    ["a module", "SITE_UNKNOWN", () => g.getDeltaWeight(model, Symbol("x"))],
    ["trace nothing", "TRACE_OPTION", () => g.traceModel(model, { batch: 1 })],
    [
      "trace a typo",
      "ADAPTER_UNKNOWN",
      () => g.traceModel(model, { batch: 1, length: 2, mixed: ["x"] }),
    ],
    ["decode nothing", "PROMPT_TYPE", () => g.openDecoder(model, [])],
    ["decode a number", "PROMPT_TYPE", () => g.openDecoder(model, [5])],
    ["decode a wrong id", "TOKEN_ID_RANGE", () => g.openDecoder(model, [[37]])],
    ["decoder options", "DECODER_OPTION", () => g.openDecoder(model, [[1]], { signal: {} })],
  ];
});

Deno.test("a config with a byte-order mark is read", async () => {
  const { base, model } = await models();
  const folder = await Deno.makeTempDir();
  await graft.savePretrained(model, folder);
  const path = `${folder}/adapter_config.json`;
  await Deno.writeTextFile(path, `\ufeff${await Deno.readTextFile(path)}`);
  assertEquals((await graft.loadAdapter(base, folder)).active, ["default"]);
  await Deno.remove(folder, { recursive: true });
});

refused("training", async (folder) => {
  const { model } = await models();
  const train = (options: unknown, data: unknown = [BATCH]) => () => g.train(model, data, options);
  const lr = { learningRate: 1e-3 };
  const option = (name: string, value: unknown): Case => [
    `${name} ${value}`,
    "TRAIN_OPTIONS",
    train({ ...lr, [name]: value }),
  ];
  return [
    ["no options", "TRAIN_OPTIONS", train(undefined)],
    ["no learning rate", "TRAIN_OPTIONS", train({})],
    option("learningRate", "1e-3"),
    option("learningRate", Infinity),
    option("learningRate", 0),
    option("steps", 1.5),
    option("steps", "2"),
    option("epochs", 0),
    option("gradientAccumulation", 0.5),
    option("warmupSteps", -1),
    option("maxGradientNorm", 0),
    option("beta1", 1),
    option("beta2", NaN),
    option("epsilon", 0),
    option("weightDecay", NaN),
    option("seed", NaN),
    option("schedule", "poly"),
    option("evalEvery", 2),
    option("checkpoint", "folder"),
    option("signal", {}),
    option("batchSize", 2),
    option("objective", "nextToken"),
    option("objective", {}),
    option("optimizer", "adamw"),
    option("optimizer", graft.adamW),
    option("rules", {}),
    option("rules", [{}]),
    option("rules", [{ name: "a" }, { name: "a" }]),
    ["two decays", "TRAIN_OPTIONS", train({ ...lr, optimizer: graft.adamW(), beta1: 0.5 })],
    ["a rate", "OPTIMIZER_OPTION", () => g.adamW({ lr: 1 })],
    ["no ratio", "OPTIMIZER_OPTION", () => g.loraPlus({})],
    ["no data", "TRAIN_DATA", train(lr, null)],
    ["one batch", "TRAIN_DATA", train(lr, BATCH)],
    ["an empty list", "DATASET_EMPTY", train(lr, [])],
    ["an empty function", "DATASET_EMPTY", train({ ...lr, steps: 2 }, () => [])],
    ["a function of nothing", "TRAIN_DATA", train({ ...lr, steps: 2 }, () => {})],
    ["a hole", "BATCH_PART", train(lr, [null])],
    ["Python's name", "BATCH_PART", train(lr, [{ input_ids: [[1, 2]] }])],
    ["segments below 0", "BATCH_VALUE", train(lr, [{ ...BATCH, segments: [[-1, 1, 1]] }])],
    ["no label", "LABELS_EMPTY", train(lr, [{ ...BATCH, labels: [[-100, -100, -100]] }])],
    ["no evaluation data", "DATASET_EMPTY", train({ ...lr, evalData: [] })],
    ["bad evaluation data", "TOKEN_ID_RANGE", train({ ...lr, evalData: [{ inputIds: [[37]] }] })],
    ["a file", "WRITE_FAILED", train({ ...lr, checkpoint: { folder: `${folder}/file` } })],
    ["no run", "RESUME_MISSING", train({ ...lr, resume: folder })],
    ["a file for a run", "FILE_UNREADABLE", train({ ...lr, resume: `${folder}/file` })],
    ["disabled", "NOTHING_TO_TRAIN", () => g.train(graft.disableAdapters(model), [BATCH], lr)],
    [
      "gradients",
      "NOTHING_TO_TRAIN",
      () => g.computeGradients(graft.disableAdapters(model), BATCH),
    ],
    ["evaluate nothing", "DATASET_EMPTY", () => g.evaluate(model, [])],
    ["evaluate undefined", "TRAIN_DATA", () => g.evaluate(model)],
    ["evaluate by 5", "TRAIN_OPTIONS", () => g.evaluate(model, [BATCH], { objective: 5 })],
    ["gradients of 5", "TRAIN_OPTIONS", () => g.computeGradients(model, BATCH, { objective: 5 })],
  ];
});

refused("data", async () => {
  const tokenizer = await graft.loadTokenizer(graft.byteTokenizerFiles());
  const tokenize = (examples: unknown, options: unknown) => () =>
    g.tokenizeExamples(examples, options);
  const rows = [{ ids: [1, 2, 3], labels: [1, 2, 3] }];
  const text = [{ text: "abc" }];
  return [
    ["no examples", "DATASET_EMPTY", tokenize([], { tokenizer })],
    ["another field", "DATA_EXAMPLE", tokenize([{ body: "abc" }], { tokenizer })],
    ["no tokenizer", "DATA_OPTION", tokenize(text, {})],
    ["half a token", "DATA_OPTION", tokenize(text, { tokenizer, maxLength: 2.5 })],
    ["one token", "DATA_OPTION", tokenize(text, { tokenizer, maxLength: 1 })],
    ["a batch size", "BATCH_SIZE", () => g.padExamples(rows, { batchSize: "4" })],
    ["a multiple", "DATA_OPTION", () => g.padExamples(rows, { batchSize: 1, multipleOf: 0 })],
    ["a seed", "DATA_OPTION", () => g.padExamples(rows, { batchSize: 1, seed: 0.5 })],
    ["too long", "DATA_LENGTH", () => g.packExamples(rows, { batchSize: 1, length: 2 })],
    ["no path", "PATH", () => g.readJsonl()],
    ["no file", "FILE_NOT_FOUND", () => graft.readJsonl("/nonexistent.jsonl")],
    ["a folder", "FILE_UNREADABLE", () => graft.readJsonl("/")],
    ["a tensor of nothing", "TENSOR_DATA", () => g.tensor(undefined)],
    ["a tensor of text", "TENSOR_DATA", () => g.tensor("abc")],
    ["a ragged tensor", "TENSOR_SIZE", () => graft.tensor([[1, 2], [3]])],
  ];
});

refused("generation", async () => {
  const { model } = await models();
  const generate = (prompt: unknown, options: object = {}) => () =>
    g.generate(model, prompt, { maxNewTokens: 2, ...options });
  const option = (name: string, value: unknown): Case => [
    `${name} ${value}`,
    "SAMPLING_OPTION",
    generate([1], { [name]: value }),
  ];
  return [
    ["no prompt", "PROMPT_TYPE", generate(undefined)],
    ["null", "PROMPT_TYPE", generate(null)],
    ["a number", "PROMPT_TYPE", generate(5)],
    ["a bigint", "PROMPT_TYPE", generate([5n])],
    ["null in a list", "PROMPT_TYPE", generate([null])],
    ["text among ids", "PROMPT_TYPE", generate([1, "2"])],
    ["a message without a role", "PROMPT_TYPE", generate([{ content: "x" }])],
    ["lists too deep", "PROMPT_TYPE", generate([[[1]]])],
    ["no ids", "PROMPT_EMPTY", generate([])],
    ["one without ids", "PROMPT_EMPTY", generate([[1], []])],
    ["a fraction", "TOKEN_ID_RANGE", generate([1.5])],
    ["too long", "PROMPT_TOO_LONG", generate(Array(17).fill(1))],
    ["text without a tokenizer", "TOKENIZER_MISSING", generate("hello")],
    option("maxNewTokens", "5"),
    option("temperature", "1"),
    option("seed", 0.5),
    option("doSample", "yes"),
    option("eosTokenId", "5"),
    option("eosTokenId", 1.5),
    option("stop", ""),
    option("signal", {}),
    option("max_new_tokens", 4),
  ];
});

Deno.test("a device that was closed says so, whatever is asked of it", async () => {
  const { model, device } = await models();
  const merged = graft.mergeAndUnload(model);
  device[Symbol.dispose]();
  for (
    const use of [
      () => graft.forward(model, BATCH),
      () => graft.forward(merged, BATCH),
      () => graft.generate(model, [1]),
      () => graft.train(model, [BATCH], { learningRate: 1e-3 }),
      async () => graft.forward(await graft.createModel(CONFIG, { device }), BATCH),
    ]
  ) {
    const error = await assertRejects(use, graft.DeviceError);
    assertEquals(error.code, "DISPOSED");
  }
});
