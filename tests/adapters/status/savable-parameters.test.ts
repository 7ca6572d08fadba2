import { assertEquals, assertThrows } from "@std/assert";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import {
  getNbSavableParameters,
  printSavableParameters,
} from "../../../lib/adapters/status/savable-parameters.ts";
import { ValueError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { golden, goldenBase } from "../bases.ts";
import { peftConfig } from "../../golden-case.ts";

/** What PEFT's `get_nb_savable_parameters` gives for these cases of VBLORA. */
const COUNTS = {
  basic: [1106, 0],
  topk_only: [287, 160],
  topk_only_many: [4804, 0],
  top_all_gpt2: [510, 592],
};

Deno.test("what files hold is counted as PEFT counts it, whole numbers by their bytes", async () => {
  for (const [name, [adapter, other]] of Object.entries(COUNTS)) {
    const { kind, config } = await readJsonFile(`${golden}methods/vblora/${name}/case.json`);
    const base = await goldenBase(kind as string);
    const model = getPeftModel(base, peftConfig("VBLORA", config as never));
    assertEquals(getNbSavableParameters(model), { adapter, other }, name);
  }
});

Deno.test("the line is PEFT's, with the name of the method", async () => {
  const { kind, config } = await readJsonFile(`${golden}methods/vblora/top_all_gpt2/case.json`);
  const base = await goldenBase(kind as string);
  const model = getPeftModel(base, peftConfig("VBLORA", config as never), { adapterName: "style" });
  const written: string[] = [];
  const line = "VBLORA params to-be-saved (float32-equivalent): 510 || " +
    "total params to-be-saved: 1,102";
  const options = { adapterName: "style", write: (text: string) => void written.push(text) };
  assertEquals([printSavableParameters(model, options), ...written], [line, line]);
  assertThrows(() => getNbSavableParameters(model), ValueError, "style");
});
