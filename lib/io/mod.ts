/**
 * Files: safetensors, GGUF, checkpoint folders, the hub, tokenizers and chat templates.
 *
 * @module
 */
export { byteTokenizerFiles, type ByteTokenizerOptions } from "./byte-tokenizer.ts";
export { applyChatTemplate, type ChatMessage, type ChatTemplateOptions } from "./chat-template.ts";
export {
  type Checkpoint,
  type CheckpointSource,
  openCheckpoint,
  type OpenCheckpointOptions,
} from "./checkpoint.ts";
export { createDecodeStream, type DecodeStream } from "./decode-stream.ts";
export {
  type EncodedRow,
  encodeInputs,
  type EncodeInputsOptions,
  type PaddedRows,
  padRows,
  type PadRowsOptions,
  type TextOrWords,
  type TextRow,
} from "./encode-inputs.ts";
export type { Encoding } from "./encode-text.ts";
export {
  defineModel,
  type DefineModelOptions,
  type ModelDefinition,
  type ModelInput,
} from "./define-model.ts";
export { exportOnnx, type ExportOnnxOptions } from "./export-onnx.ts";
export { type GgufFile, openGguf } from "./gguf.ts";
export type { GgufValue } from "./gguf-reader.ts";
export {
  type Download,
  downloadFromHub,
  type DownloadOptions,
  type DownloadProgress,
  type HubOptions,
} from "./hub.ts";
export {
  createImageProcessor,
  type ImageProcessor,
  type ImageSize,
  loadImageProcessor,
  processImages,
} from "./image-processor.ts";
export type { JsonObject } from "./json.ts";
export {
  createModel,
  loadModel,
  type LoadModelOptions,
  type ModelDeviceOptions,
} from "./load-model.ts";
export { tinyModel } from "./tiny-model.ts";
export { imageProcessorOf, tokenizerOf } from "./model-tokenizer.ts";
export { readImage, type RgbImage } from "./read-image.ts";
export type { RowPart, RowTemplate } from "./post-processor.ts";
export { renderChat, type RenderChatOptions } from "./render-chat.ts";
export {
  resizeTokenEmbeddings,
  type ResizeTokenEmbeddingsOptions,
} from "./resize-token-embeddings.ts";
export { replicateLayers } from "./replicate-layers.ts";
export * from "./safetensors.ts";
export { saveModel, type SaveModelOptions } from "./save-model.ts";
export {
  createTokenizer,
  loadTokenizer,
  type Tokenizer,
  type TokenizerSource,
} from "./tokenizer.ts";
export type { TokenizerFiles } from "./tokenizer-json.ts";
