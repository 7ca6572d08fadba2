/**
 * What a method adds to training: a penalty, inputs, a change of gradients, state, and a last word.
 *
 * @module
 */
import type { Site } from "../model/site.ts";
import type { Graph, Value } from "../ops/value.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { PeftConfig } from "./config.ts";
import type { Leaves } from "./method.ts";

/** Where a run stands. */
export interface StepTime {
  /** The optimizer step that is being taken, from 1. */
  readonly step: number;
  /** How many the run has; infinite where the data decides. */
  readonly steps: number;
  /** Number of the batch in the run, from 0. */
  readonly batch: number;
  /** Seed of the run. */
  readonly seed: number;
}

/** An input of step programs that the host fills. */
export interface RuleInput {
  /** Its shape. */
  readonly shape: readonly number[];
  /** Type of its elements. */
  readonly dtype: "i32" | "f32";
  /** Its contents for the batch that is to run. */
  at(time: StepTime): Tensor;
}

/** What a rule works with while a step is traced. */
export interface RuleTrace {
  /** The graph that is being traced. */
  readonly graph: Graph;
  /** What is trained, by the names of `trainableLeaves`; after the update in `afterStep`. */
  readonly leaves: ReadonlyMap<string, Value>;
  /** A leaf of an adapter that is fixed, by the name that {@link TrainedAdapter.nameOf} gives. */
  readonly fixed: (name: string) => Value;
  /** The rule's own state as it was before the step. */
  readonly state: Readonly<Record<string, Value>>;
  /** The rule's own inputs. */
  readonly inputs: Readonly<Record<string, Value>>;
}

/** A running training as the host sees it between two steps. */
export interface RunningState {
  /** Copies the rule's state to the host. */
  state(): Promise<Readonly<Record<string, Tensor>>>;
  /** Copies all that is trained to the host, by name. */
  leaves(): Promise<ReadonlyMap<string, Tensor>>;
  /** Replaces some of the rule's state. */
  writeState(state: Readonly<Record<string, Tensor>>): Promise<void>;
  /** Replaces some of what is trained. */
  writeLeaves(leaves: ReadonlyMap<string, Tensor>): Promise<void>;
}

/** A rule that steps follow beside objective and optimizer. All of it is traced but where noted. */
export interface StepRule {
  /** Inputs, filled on the host for each batch. */
  readonly inputs?: Readonly<Record<string, RuleInput>>;
  /** State that steps update and checkpoints keep, in f32, as it is at first. */
  readonly state?: Readonly<Record<string, Tensor>>;
  /** Whether its state stands for leaves of the same names, which passes read and update. */
  readonly carries?: true;
  /** Values that stand for leaves in a step, in the forward pass and as what is updated. */
  constrain?(trace: Pick<RuleTrace, "graph" | "leaves">): ReadonlyMap<string, Value>;
  /** Is added to the mean loss of a step, shape []; batches that are accumulated share it. */
  penalty?(trace: RuleTrace): Value;
  /** Other gradients for some leaves: of the whole step, before they are clipped. */
  gradient?(
    trace: RuleTrace & { readonly gradients: ReadonlyMap<string, Value> },
  ): ReadonlyMap<string, Value>;
  /**
   * The rule's next state, and other values for some leaves. `gradients` are those that the
   * optimizer got.
   */
  afterStep?(trace: RuleTrace & { readonly gradients: ReadonlyMap<string, Value> }): {
    readonly state?: Readonly<Record<string, Value>>;
    readonly leaves?: ReadonlyMap<string, Value>;
  };
  /** Runs on the host after each step. */
  betweenSteps?(time: StepTime, run: RunningState): Promise<void>;
}

/** An adapter that is about to be trained. */
export interface TrainedAdapter<C extends PeftConfig> {
  /** Its config, complete. */
  readonly config: C;
  /** The sites that it takes part at, in order of execution. */
  readonly sites: readonly Site[];
  /** The name of a leaf in {@link RuleTrace.leaves}, of a site or of the adapter as a whole. */
  nameOf(leaf: string, site?: Site): string;
  /** All leaves of a site, fixed ones too, as they are at first. */
  leavesAt(site: Site): Leaves;
}

/** What training an adapter of a method follows beside objective and optimizer. */
export interface MethodTraining<C extends PeftConfig> extends StepRule {
  /** The adapter that training gives, made of the trained one: its config, and leaves by site. */
  finish?(
    trained: { readonly config: C; readonly sites: ReadonlyMap<string, Leaves> },
    state: Readonly<Record<string, Tensor>>,
  ): Promise<{ readonly config: C; readonly sites: ReadonlyMap<string, Leaves> }>;
}
