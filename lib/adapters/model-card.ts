/**
 * The README.md of a saved adapter, which the hub reads as its model card.
 *
 * @module
 */
import { PEFT_VERSION, type PeftConfig } from "../methods/config.ts";

/** What a card says. */
export interface ModelCard {
  /** The adapter's config. */
  readonly config: PeftConfig;
  /** Name of the base; `null` where it has none. */
  readonly baseModel: string | null;
  /** The README.md that is there already. */
  readonly existing?: string;
}

/**
 * A model card with the fields by which the hub finds an adapter. In an existing one only these
 * fields change, and the release of PEFT is added at its end.
 */
export function modelCard({ config, baseModel, existing }: ModelCard): string {
  const tags = ["transformers"];
  if (config.peftType === "LORA") tags.push("lora");
  if (baseModel) tags.push(`base_model:adapter:${baseModel}`);
  const fields: Record<string, string | undefined> = {
    base_model: baseModel ? ` ${yaml(baseModel)}` : undefined,
    library_name: " peft",
    pipeline_tag: config.taskType === "CAUSAL_LM" ? " text-generation" : undefined,
    tags: `\n${tags.sort().map((tag) => `- ${yaml(tag)}`).join("\n")}`,
  };
  const { front, body } = split(existing ?? "");
  const keep = front.filter(([key]) => fields[key] === undefined || key === "pipeline_tag");
  const own = Object.entries(fields).filter(([key, value]) =>
    value !== undefined && !keep.some(([k]) => k === key)
  );
  const lines = [...keep.map(([, text]) => text), ...own.map(([key, text]) => `${key}:${text}`)];
  const text = existing === undefined ? newBody(config, baseModel) : body;
  return `---\n${lines.sort().join("\n")}\n---\n${withVersion(text)}`;
}

function newBody(config: PeftConfig, baseModel: string | null): string {
  return `\n# Adapter\n\nA ${config.peftType} adapter${
    baseModel ? ` for \`${baseModel}\`` : ""
  } in PEFT's format: \`adapter_config.json\` and \`adapter_model.safetensors\`.\n`;
}

function withVersion(body: string): string {
  const line = `- PEFT ${PEFT_VERSION}`, heading = "### Framework versions";
  const lines = body.trimEnd().split("\n");
  if (lines.includes(line)) return body;
  const at = lines.indexOf(heading);
  if (at < 0) return `${lines.join("\n")}\n\n${heading}\n\n${line}`;
  return [...lines.slice(0, at + 1), "", line, ...lines.slice(at + 1).filter((l, i) => i || l)]
    .join("\n");
}

/** The fields of the front matter, each with the lines that belong to it, and what follows. */
function split(
  text: string,
): { readonly front: readonly (readonly [string, string])[]; readonly body: string } {
  const match = /^---\r?\n([\s\S]*?)\r?\n---(?:\r?\n|$)/.exec(text);
  if (!match) return { front: [], body: text };
  const front: [string, string][] = [];
  for (const line of match[1].split(/\r?\n/)) {
    const key = /^([^\s#:-][^:]*):/.exec(line)?.[1];
    if (key !== undefined || front.length === 0) front.push([key ?? "", line]);
    else front[front.length - 1][1] += `\n${line}`;
  }
  return { front, body: text.slice(match[0].length) };
}

/** A string as a YAML scalar, quoted where it could be read as something else. */
function yaml(text: string): string {
  const plain = /^[A-Za-z/][\w./@+~-]*(:[\w./@+~-]+)*$/.test(text) &&
    !/^(true|false|null|yes|no|on|off|~)$/i.test(text);
  return plain ? text : JSON.stringify(text);
}
