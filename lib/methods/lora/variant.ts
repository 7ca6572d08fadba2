/**
 * What a variant of LoRA has to say about itself.
 *
 * @module
 */
import type { SiteKind } from "../../model/site.ts";
import type { Value } from "../../ops/value.ts";
import type { LeafRule, PeftMethod, SitePlace } from "../method.ts";
import type { DeltaRule, ForwardRule } from "../site-rule.ts";
import type { MethodTraining, TrainedAdapter } from "../training-rule.ts";
import type { LoraConfig } from "./lora-config.ts";
import type { LoraTrace } from "./lora-trace.ts";

/** The rule of a site with a LoRA. */
export type LoraRule = DeltaRule<LoraConfig> | ForwardRule<LoraConfig>;

/** One variant: what a field of the config changes of plain LoRA. All but the first is optional. */
export interface LoraVariant {
  /** The field that turns it on. */
  readonly field: keyof LoraConfig;
  /** Kinds of sites that it can adapt; all by default. */
  readonly kinds?: readonly SiteKind[];
  /** The leaves of a site, from those of plain LoRA. Throws `ConfigError` where it cannot have them. */
  leaves?(
    at: SitePlace<LoraConfig>,
    plain: Readonly<Record<string, LeafRule>>,
  ): Readonly<Record<string, LeafRule>>;
  /** Leaves that those of plain LoRA would have to be, so that it did the same. */
  values?(trace: LoraTrace): Readonly<Record<string, Value>>;
  /** The rule of a site, from that of plain LoRA or of the variants before it. */
  rule?(plain: DeltaRule<LoraConfig>, kind: SiteKind): LoraRule;
  /** What it takes of the token ids of rows; see `PeftMethod`. */
  readonly rowInputs?: PeftMethod<LoraConfig>["rowInputs"];
  /** What it adds to training. */
  training?(adapter: TrainedAdapter<LoraConfig>): MethodTraining<LoraConfig>;
}
