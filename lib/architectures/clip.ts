/**
 * CLIP (Radford et al., 2021, arXiv:2103.00020): a tower of text and one of images, whose outputs
 * are alike where they belong together.
 *
 * @module
 */
import type { Architecture, Body, ModelConfig } from "../model/architecture.ts";
import { TEXT_INPUTS } from "../model/batch-input.ts";
import type { Modules } from "../model/modules.ts";
import { div, exp, mul, sqrt } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { textTower } from "./clip-text.ts";
import { CLIP_BUFFERS, type Tower } from "./clip-tower.ts";
import { visionPatches, visionTower } from "./clip-vision.ts";
import { configReader } from "./config-reader.ts";

/** x / ‖x‖ of each row. */
function normalized(x: Value): Value {
  return div(x, sqrt(sum(mul(x, x), { axes: [1], keepDims: true })));
}

function body(m: Modules, config: ModelConfig): Body {
  const scale = m.parameter("logit_scale", []);
  const text = textTower(m.at("text_model"), config);
  const vision = visionTower(m.at("vision_model"), config);
  const out = configReader(config).size("projection_dim", 512);
  const projection = (name: string, { hidden }: Tower) =>
    m.linear(name, { in: hidden, out }, { bias: false });
  const projectImage = projection("visual_projection", vision);
  const projectText = projection("text_projection", text);
  return {
    hidden: out,
    embedding: text.embedding,
    run(pass, inputs) {
      const imageEmbeds = normalized(projectImage(vision.run(pass, inputs).poolerOutput));
      const textEmbeds = normalized(projectText(text.run(pass, inputs).poolerOutput));
      const logitsPerText = mul(
        matmul(textEmbeds, imageEmbeds, { transposeB: true }),
        exp(scale()),
      );
      return { logitsPerImage: transpose(logitsPerText), logitsPerText, textEmbeds, imageEmbeds };
    },
  };
}

/** CLIP. */
export const clip: Architecture = {
  name: "clip",
  modelTypes: ["clip"],
  bodyPath: "",
  reads: (config) => [...TEXT_INPUTS, visionPatches(config).pixels],
  body,
  heads: { FEATURE_EXTRACTION: null },
  ignoredKeys: CLIP_BUFFERS,
};
