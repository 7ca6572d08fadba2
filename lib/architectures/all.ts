/**
 * The families that the library brings. Another one is a file in this folder and a line here.
 *
 * @module
 */
export { bart } from "./bart.ts";
export { bert } from "./bert.ts";
export { blenderbot } from "./blenderbot.ts";
export { bloom } from "./bloom.ts";
export { clip } from "./clip.ts";
export { clipText } from "./clip-text.ts";
export { clipVision } from "./clip-vision.ts";
export { codegen } from "./codegen.ts";
export { cohere } from "./cohere.ts";
export { deberta } from "./deberta.ts";
export { distilBert } from "./distilbert.ts";
export { electra } from "./electra.ts";
export { exaone4 } from "./exaone4.ts";
export { falcon } from "./falcon.ts";
export { gemma } from "./gemma.ts";
export { gemma2 } from "./gemma2.ts";
export { gemma3 } from "./gemma3.ts";
export { glm } from "./glm.ts";
export { gptBigCode } from "./gpt-bigcode.ts";
export { gptNeo } from "./gpt-neo.ts";
export { gptNeox } from "./gpt-neox.ts";
export { gpt2 } from "./gpt2.ts";
export { gptj } from "./gptj.ts";
export { granite } from "./granite.ts";
export { llama, mistral } from "./llama.ts";
export { mbart } from "./mbart.ts";
export { mixtral } from "./mixtral.ts";
export { modernBert } from "./modernbert.ts";
export { mpnet } from "./mpnet.ts";
export { mpt } from "./mpt.ts";
export { olmo2 } from "./olmo2.ts";
export { opt } from "./opt.ts";
export { phi } from "./phi.ts";
export { phi3 } from "./phi3.ts";
export { plbart } from "./plbart.ts";
export { qwen2Moe, qwen3Moe } from "./qwen-moe.ts";
export { roberta } from "./roberta.ts";
export { smolLm3 } from "./smollm3.ts";
export { stableLm } from "./stablelm.ts";
export { starcoder2 } from "./starcoder2.ts";
export { t5 } from "./t5.ts";
export { vit } from "./vit.ts";
