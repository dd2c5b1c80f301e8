import { Inject, Injectable, Optional } from '@nestjs/common';
import { Bulkhead, bisect, roundsOf } from '#admission';
import type { PaymentOutcome, PaymentRequest } from '#contracts';
import { BackgroundWorker, NoAnswer, within } from '#periodic';
import { Traces, withWork } from '#telemetry';
import {
  isDecided,
  moveOf,
  parked,
  requestOf,
  toldFirst,
  waiting,
  type Captured,
  type Saga,
  type SagaMove,
} from '../domain/saga-moves.js';
import { SagaDefinitions, type SagaName, type SagaStep } from '../domain/sagas.js';
import { RelayOutbox } from './relay-outbox.js';

export abstract class Sagas {
  /**
   * Claims sagas that are due and not leased.
   * @param known the definitions known here; sagas of others are left to processes that know them, until due for a minute
   * @param exceptOf the tenants whose sagas are left alone
   */
  abstract claim(
    leaseMs: number,
    limit: number,
    known: SagaDefinitions['known'],
    exceptOf: readonly string[],
  ): Promise<Saga[]>;
  /**
   * Moves each saga together with its order, or neither of them.
   * @param moves at most one per order
   * @returns the ids of the moved sagas: without those that another process has claimed since, and those whose order is not
   *   in the status that the entry requires
   */
  abstract move(tenant: string, moves: readonly SagaMove[]): Promise<ReadonlySet<string>>;
  /**
   * Of these orders, those whose history says that the payment was authorised, but not what became of its capture. To be
   * called after claiming the sagas: what an earlier lease holder wrote is seen then, and its later writes are rejected.
   */
  abstract untoldCaptures(tenant: string, orderIds: readonly string[]): Promise<ReadonlySet<string>>;
  /** Of these orders, those with a capture on request that is still in progress. */
  abstract capturing(tenant: string, orderIds: readonly string[]): Promise<ReadonlySet<string>>;
}

export abstract class PaymentPerformer {
  /** @returns one outcome per operation, in the given order */
  abstract perform(tenant: string, operations: readonly PaymentRequest[]): Promise<PaymentOutcome[]>;
}

/** How long the saga of a killed process waits until another one takes it over, in milliseconds. */
export const sagaLease = Symbol('saga lease');
/** The longest lease that any process can be configured with. */
export const longestLeaseMs = 300_000;

const batchSize = 500;
/** How often sagas are polled without a wake-up: another instance may have started one, or a pause may be over. */
const pollMs = 250;
const triesAtOnce = 5;
/** How long other tenants wait for one whose provider does not answer. */
const patienceMs = 1_000;
/** How many connections may move sagas at once, for all tenants together: the others are left to orders. */
const mostMoving = 4;

/** Leads the sagas of payments, many at once: asks payment for the next step and stores the outcome in saga and order. */
@Injectable()
export class RunSagas extends BackgroundWorker {
  private readonly moving: Bulkhead;
  /** The tenants whose sagas are being led here. */
  private readonly leading = new Map<string, Promise<void>>();

  constructor(
    private readonly sagas: Sagas,
    private readonly payment: PaymentPerformer,
    private readonly relay: RelayOutbox,
    private readonly definitions: SagaDefinitions,
    @Inject(sagaLease) private readonly leaseMs: number,
    @Optional() private readonly traces?: Traces,
  ) {
    super({
      pollMs,
      failing: 'payments cannot be processed, trying again until it works',
      working: 'payments are being processed again',
    });
    this.moving = new Bulkhead({
      ...{ atOnce: mostMoving, mostWaiting: Number.POSITIVE_INFINITY },
      // Another process may have claimed the sagas by then.
      longestWaitMs: leaseMs,
      tooMuch: 'More payments are led on',
    });
  }

  /** The first step of a new saga. */
  begin(name: SagaName): SagaStep {
    return this.definitions.begin(name);
  }

  protected async execute(): Promise<boolean> {
    await this.someLed();
    const busy = [...this.leading.keys()];
    const claimed = await this.sagas.claim(this.leaseMs, batchSize, this.definitions.known, busy);
    const leads = [...Map.groupBy(claimed, (it) => it.tenant)].map(([tenant, group]) => {
      const lead = this.traced(group, () => this.lead(tenant, group)).finally(() => this.leading.delete(tenant));
      this.leading.set(tenant, lead);
      return lead;
    });
    const allLed = Promise.all(leads);
    try {
      await within(patienceMs, allLed);
    } catch (error) {
      if (!(error instanceof NoAnswer)) throw error;
      // These go on, while the sagas of other tenants are claimed.
      allLed.catch((late: unknown) => this.logger.warn(`payments cannot be processed, trying again (${String(late)})`));
    }
    return claimed.length === batchSize || this.leading.size > 0;
  }

  /**
   * While some tenants are still being led, waits for one of them, but not long: a claim reads past all due sagas of the
   * tenants that it leaves out. Waits for longer if there are many, because payment takes only so many calls at once.
   */
  private async someLed(): Promise<void> {
    while (this.leading.size > 0) {
      // A failure is reported by the round that began it.
      await within(pollMs, Promise.race(this.leading.values())).catch(() => undefined);
      if (this.leading.size < batchSize || this.stopping) return;
    }
  }

  protected override async leave(): Promise<void> {
    await Promise.allSettled(this.leading.values());
  }

  private traced(sagas: readonly Saga[], lead: () => Promise<void>): Promise<void> {
    if (!this.traces?.areOpen) return lead();
    const parents = sagas.map(({ data }) => data.traceparent);
    return this.traces.ofMany('lead sagas', parents, { attributes: { 'cleave.batch.size': sagas.length } }, lead);
  }

  /** Leads sagas step by step, as long as there is a next step that need not wait and half of the lease is left. */
  private async lead(tenant: string, claimed: Saga[]): Promise<void> {
    const goodUntil = performance.now() + this.leaseMs / 2;
    const known = claimed.filter((it) => this.isKnown(it));
    if (known.length < claimed.length) await this.leaveAlone(tenant, claimed);
    for (let sagas = known; sagas.length > 0 && !this.stopping && performance.now() < goodUntil;) {
      const outcomes = await this.ask(tenant, sagas);
      const earlier = await this.earlierMoves(tenant, sagas, outcomes);
      const moves = sagas.map(
        (saga, index) =>
          earlier.get(saga) ?? moveOf(saga, this.definitions.step(saga), outcomes[index]!, Math.random()),
      );
      const moved = await this.keep(tenant, moves);
      sagas = moves
        .filter((it) => it.state === 'running' && it.waitMs === 0 && moved.has(it.saga.sagaId))
        .map(({ saga, step }) => ({ ...saga, step, attempts: 0 }));
    }
  }

  /** For sagas of a version unknown here that no process that knows it has claimed for a minute: an operator is told. */
  private async leaveAlone(tenant: string, claimed: readonly Saga[]): Promise<void> {
    const unknown = claimed.filter((it) => !this.isKnown(it));
    for (const { sagaId, definition, version, step } of unknown)
      this.logger.warn(
        `saga ${sagaId} waits: this version of Cleave does not know step ${step} of ${definition} ${version}`,
      );
    await this.keep(
      tenant,
      unknown.map((it) => waiting(it, `a version of Cleave that knows ${it.definition} ${it.version}`, Math.random())),
    );
  }

  private isKnown(saga: Saga): boolean {
    return this.definitions.find(saga) !== undefined;
  }

  private isTooLate(saga: Saga): boolean {
    return saga.isLate && this.definitions.step(saga).late !== undefined;
  }

  private async ask(tenant: string, sagas: readonly Saga[]): Promise<(PaymentOutcome | 'late')[]> {
    const asked = sagas.filter((it) => !this.isTooLate(it));
    const outcomes = new Map<Saga, PaymentOutcome>();
    if (asked.length > 0) {
      const answers = await this.perform(tenant, asked.map(requestOf));
      asked.forEach((saga, index) => outcomes.set(saga, answers[index]!));
    }
    return sagas.map((it) => outcomes.get(it) ?? 'late');
  }

  /**
   * The moves that come before a reversal is told: the history must tell that money was captured before it tells that it was
   * returned. A capture on request has a saga of its own, which is waited for.
   */
  private async earlierMoves(
    tenant: string,
    sagas: readonly Saga[],
    outcomes: readonly (PaymentOutcome | 'late')[],
  ): Promise<ReadonlyMap<Saga, SagaMove>> {
    const reversed = sagas.filter((saga, index) => saga.step === 'reverse' && isDecided(outcomes[index]!));
    if (reversed.length === 0) return new Map();
    const capturesItself = (it: Saga): boolean => this.definitions.find({ ...it, step: 'capture' }) !== undefined;
    const moves = new Map<Saga, SagaMove>();
    for (const [saga, capture] of await this.untoldCaptures(tenant, reversed.filter(capturesItself)))
      moves.set(saga, toldFirst(saga, capture, Math.random()));
    const others = reversed.filter((it) => !capturesItself(it));
    for (const saga of await this.stillCapturing(tenant, others))
      moves.set(saga, waiting(saga, 'a capture that is in progress', Math.random()));
    return moves;
  }

  private async stillCapturing(tenant: string, reversed: readonly Saga[]): Promise<Saga[]> {
    if (reversed.length === 0) return [];
    const orderIds = reversed.map((it) => it.orderId);
    const capturing = await this.moving.inTurn(() => this.sagas.capturing(tenant, orderIds));
    return reversed.filter((it) => capturing.has(it.orderId));
  }

  /**
   * The outcomes of captures that were in progress when their orders were cancelled. Once the reversal is decided, nothing
   * is captured any more, so sending the capture under its operation id again only asks how it ended. There is nothing to
   * tell of a refused one.
   */
  private async untoldCaptures(tenant: string, reversed: readonly Saga[]): Promise<ReadonlyMap<Saga, Captured>> {
    if (reversed.length === 0) return new Map();
    const orderIds = reversed.map((it) => it.orderId);
    const untold = await this.moving.inTurn(() => this.sagas.untoldCaptures(tenant, orderIds));
    const asked = reversed.filter((it) => untold.has(it.orderId));
    if (asked.length === 0) return new Map();
    const answers = await this.perform(
      tenant,
      asked.map((it) => requestOf({ ...it, step: 'capture' })),
    );
    return new Map(
      asked.flatMap((saga, index): [Saga, Captured][] => {
        const answer = answers[index]!;
        return answer.outcome === 'refused' ? [] : [[saga, answer]];
      }),
    );
  }

  /** A call that fails as a whole is retried in halves, so that a request payment does not understand holds up no other. */
  private async perform(tenant: string, requests: readonly PaymentRequest[]): Promise<PaymentOutcome[]> {
    const outcomes: PaymentOutcome[] = [];
    await bisect(
      requests,
      async (some) => void outcomes.push(...(await this.payment.perform(tenant, some))),
      (failed, error) => {
        this.logger.warn(`payment did not answer, trying again (${String(error)})`);
        outcomes.push(...failed.map((): PaymentOutcome => ({ outcome: 'open', reason: 'payment did not answer' })));
      },
    );
    return outcomes;
  }

  private async keep(tenant: string, moves: readonly SagaMove[]): Promise<ReadonlySet<string>> {
    const moved = new Set<string>();
    // At most one move per order at a time.
    for (const round of roundsOf(moves, (it) => it.saga.orderId)) {
      let left = round;
      // If the order changed at the same moment, the move is retried at once.
      for (let tries = 0; left.length > 0 && tries < triesAtOnce; tries += 1) {
        const done = await this.move(tenant, left);
        done.forEach((it) => moved.add(it));
        left = left.filter((it) => !done.has(it.saga.sagaId));
      }
      // The order is not in the status that the entry requires, perhaps because goods were handed over: a person has to
      // decide. If another process has claimed the saga, this move is rejected as well.
      const stuck = left.filter((it) => it.entry?.from !== undefined);
      if (stuck.length > 0)
        await this.move(
          tenant,
          stuck.map(({ saga, result }) => parked(saga, { ...result, waits_for: 'the order is in another status' })),
        );
    }
    for (const { saga, state, result } of moves)
      if (state === 'parked' && moved.has(saga.sagaId))
        withWork({ tenant, orderId: saga.orderId, traceparent: saga.data.traceparent }, () =>
          this.logger.warn(
            `saga ${saga.sagaId} of order ${saga.orderId} is a dead letter, retry or close it: ${JSON.stringify(result)}`,
          ),
        );
    if (moves.some((it) => it.entry !== undefined)) this.relay.wake();
    return moved;
  }

  private move(...given: Parameters<Sagas['move']>): ReturnType<Sagas['move']> {
    return this.moving.inTurn(() => this.sagas.move(...given));
  }
}
