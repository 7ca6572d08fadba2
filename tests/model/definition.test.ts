import { assert, assertAlmostEquals, assertEquals, assertNotEquals } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { runInputs, traceModel } from "../../lib/adapters/trace-model.ts";
import { compileWith, type Device } from "../../lib/device/device.ts";
import { createModel } from "../../lib/io/load-model.ts";
import type { Architecture } from "../../lib/model/architecture.ts";
import { type Adaptation, createForwardPass } from "../../lib/model/forward-pass.ts";
import { createModelGraph, type ModelGraph } from "../../lib/model/model-graph.ts";
import { runModel } from "../../lib/model/run-model.ts";
import { add, mul } from "../../lib/ops/elementwise.ts";
import { concat } from "../../lib/ops/concat.ts";
import { constant } from "../../lib/ops/constant.ts";
import { input } from "../../lib/ops/input.ts";
import { createGraph } from "../../lib/ops/value.ts";
import { programOf } from "../../lib/program/program.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { testOnDevices } from "../devices.ts";

const LLAMA = {
  model_type: "llama",
  vocab_size: 37,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 3,
};
const IDS = [[1, 2, 3, 30], [9, 8, 7, 6]];

async function values(found: Promise<{ readonly logits: Tensor }>): Promise<Float32Array> {
  return await (await found).logits.data() as Float32Array;
}

Deno.test("an absent rms_norm_eps is 1e-6", async () => {
  const of = async (change: object) => {
    const model = await createModel({ ...LLAMA, ...change }, { device: "cpu" });
    using _device = model.device;
    return await values(forward(model, { inputIds: IDS }));
  };
  const absent = await of({});
  assertEquals(absent, await of({ rms_norm_eps: 1e-6 }));
  assertNotEquals(absent, await of({ rms_norm_eps: 1e-5 }));
});

/** Norms of all kinds, a tied layer whose order of running is not that of its declaration, and a parameter beside all layers. */
const odd: Architecture = {
  name: "odd",
  modelTypes: ["odd"],
  bodyPath: "body",
  heads: { FEATURE_EXTRACTION: null },
  ignoredKeys: /$^/,
  initializerRange: () => 1,
  body(m) {
    const last = m.at("late").norm("rms_bias", 3, { kind: "rms", epsilon: 0.25, bias: true });
    const table = m.embedding("table", { rows: 4, size: 3 });
    const shift = m.at("late").parameter("shift", [3]);
    const plain = m.norm("layer", 3, { kind: "layer", epsilon: 0.5, bias: false });
    const tied = m.linear("tied", { in: 3, out: 4 }, { bias: false, tiedTo: table });
    return {
      hidden: 3,
      embedding: table,
      run(_pass, { ids }) {
        const h = last(add(plain(table(ids)), shift()));
        return { lastHiddenState: h, logits: tied(h) };
      },
    };
  },
};

const PARAMETERS = {
  "late.rms_bias.weight": [1.5, -0.5, 2],
  "late.rms_bias.bias": [0.1, 0.2, -0.3],
  "table.weight": [1, 2, 4, -1, 0, 0.5, 3, 3, -2, 0.5, -0.5, 1],
  "late.shift": [0.3, -0.1, 0.7],
  "layer.weight": [0.9, 1.1, -1.3],
};

function oddModel(device: Device): ModelGraph {
  const shapes = { "table.weight": [4, 3] } as Record<string, number[]>;
  return createModelGraph(odd, {
    config: { model_type: "odd" },
    device,
    parameters: new Map(
      Object.entries(PARAMETERS).map(([name, x]) => [
        name,
        tensor(Float32Array.from(x), { shape: shapes[name] ?? [3] }),
      ]),
    ),
  });
}

function oddLogits(id: number): number[] {
  const p = PARAMETERS, row = p["table.weight"].slice(3 * id, 3 * id + 3);
  const mean = row.reduce((a, b) => a + b) / 3;
  const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / 3;
  const x = row.map((v, i) =>
    (v - mean) / Math.sqrt(variance + 0.5) * p["layer.weight"][i] + p["late.shift"][i]
  );
  const square = x.reduce((a, b) => a + b * b, 0) / 3;
  const y = x.map((v, i) =>
    v / Math.sqrt(square + 0.25) * p["late.rms_bias.weight"][i] + p["late.rms_bias.bias"][i]
  );
  return [0, 1, 2, 3].map((v) => y.reduce((a, b, i) => a + b * p["table.weight"][3 * v + i], 0));
}

testOnDevices("norms, parameters and ties are what their definition says", async (device) => {
  const model = oddModel(device);
  assertEquals([...model.sites.keys()], ["late.rms_bias", "table", "layer", "tied"]);
  assertEquals([...model.shapes.keys()], [...Object.keys(PARAMETERS), "tied.weight"]);
  assertEquals([...model.tied], [["tied.weight", "table.weight"]]);
  const found = await values(forward(model, { inputIds: [[2, 0], [1, 3]] }));
  [2, 0, 1, 3].flatMap(oddLogits).forEach((x, i) => assertAlmostEquals(found[i], x, 1e-5));
});

/** Logits of a model for {@link IDS} with a part that adapters take, and so many virtual rows. */
async function adapted(
  model: ModelGraph,
  adaptation: Partial<Adaptation>,
  virtual = 0,
): Promise<Float32Array> {
  const graph = createGraph(), rows = 4 + virtual;
  const ints = (name: string, shape: number[]) => input(graph, name, { shape, dtype: "i32" });
  const pass = createForwardPass(graph, model, {
    adaptation: { site: (pass, site, x) => pass.base(site, x), ...adaptation },
    querySegments: ints("querySegments", [2, rows]),
    keySegments: ints("keySegments", [2, rows]),
    offset: ints("offset", [1]),
  });
  const { logits } = runModel(pass, {
    ids: ints("ids", [2, 4]),
    positions: ints("positions", [2, rows]),
  });
  const program = programOf({ logits });
  const bindings = Object.fromEntries(pass.bindings);
  const executable = await compileWith(model.device, program, bindings);
  return await values(executable.run({
    ...bindings,
    ...runInputs(model, {
      program,
      batch: 2,
      length: 4,
      ids: Int32Array.from(IDS.flat()),
      positions: Int32Array.from({ length: 2 * rows }, (_, i) => i % rows),
      keySegments: new Int32Array(2 * rows).fill(1),
    }),
  }) as Promise<{ logits: Tensor }>);
}

testOnDevices("adapters may put rows before the embedded tokens", async (device) => {
  const model = await createModel({ ...LLAMA, initializer_range: 0.5 }, { device });
  const table = model.parameters.get("model.embed_tokens.weight")!;
  const own = (await table.data() as Float32Array).slice(5 * 24, 7 * 24);
  // Rows of two known tokens give what the tokens themselves give.
  const found = await adapted(model, {
    embeds(pass, rows) {
      const every = constant(pass.graph, [...own, ...own], { shape: [2, 2, 24] });
      return concat([every, rows], { axis: 1 });
    },
  }, 2);
  const whole = await values(forward(model, { inputIds: IDS.map((row) => [5, 6, ...row]) }));
  assertEquals(found.length, whole.length);
  found.forEach((x, i) => assertAlmostEquals(x, whole[i], 1e-4));
});

for (const model_type of ["llama", "gpt2"]) {
  testOnDevices(`adapters may add to what attention of ${model_type} gives`, async (device) => {
    const config = model_type === "llama"
      ? { ...LLAMA, initializer_range: 0.5, num_key_value_heads: 1 }
      : { model_type, vocab_size: 37, n_embd: 24, n_layer: 2, n_head: 3, initializer_range: 0.5 };
    const model = await createModel(config, { device });
    const calls: (readonly [string, number])[] = [];
    const plain = await values(forward(model, { inputIds: IDS }));
    const zero = await adapted(model, {
      attention(_pass, { path, index, q, keyValues, project }, output) {
        calls.push([path, index]);
        const { k, v } = keyValues(output);
        assertEquals(q.shape, [2, 4, 3, 8]);
        assertEquals([k.shape, v.shape], [[2, 4, k.shape[2], 8], [2, 4, k.shape[2], 8]]);
        assertEquals(k.shape[2], model_type === "llama" ? 1 : 3);
        return add(output, mul(project(mul(q, 0)), 0));
      },
    });
    assertEquals(calls.map(([, index]) => index), [0, 1]);
    assert(calls.every(([path]) => model.sites.get(path)?.kind === "attention"));
    zero.forEach((x, i) => assertAlmostEquals(x, plain[i], 1e-4));
    const doubled = await adapted(model, { attention: (_pass, _call, y) => mul(y, 2) });
    assert(doubled.some((x, i) => Math.abs(x - plain[i]) > 0.1));
  });
}

testOnDevices("training drops attention probabilities at the base's rate", async (device) => {
  const model = await createModel({
    model_type: "gpt2",
    vocab_size: 37,
    n_embd: 24,
    n_layer: 1,
    n_head: 3,
    initializer_range: 0.5,
    attn_pdrop: 0.4,
    embd_pdrop: 0,
    resid_pdrop: 0,
  }, { device });
  const { program, bindings } = traceModel(model, {
    batch: 2,
    length: 4,
    dropout: true,
  });
  assertEquals(program.nodes.filter(({ op }) => op === "dropoutMask").length, 1);
  const executable = await compileWith(device, program, bindings);
  const run = (seed: number, firstRow = 0, rows = IDS) =>
    values(executable.run({
      ...bindings,
      ...runInputs(model, {
        program,
        batch: 2,
        length: 4,
        ids: Int32Array.from(rows.flat()),
        positions: Int32Array.from({ length: 8 }, (_, i) => i % 4),
        keySegments: new Int32Array(8).fill(1),
        seed,
        firstRow,
      }),
    }) as Promise<{ logits: Tensor }>);
  assertEquals(await run(1), await run(1));
  assertNotEquals(await run(1), await run(2));
  // The second row of a batch is the first of its second half.
  const whole = await run(1), part = await run(1, 1, [IDS[1], IDS[0]]);
  part.subarray(0, part.length / 2).forEach((x, i) =>
    assertAlmostEquals(x, whole[part.length / 2 + i], 1e-5)
  );
});
