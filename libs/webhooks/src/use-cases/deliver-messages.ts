import { Inject, Injectable, Optional } from '@nestjs/common';
import type { Histogram } from '@opentelemetry/api';
import { CleaveError } from '#contracts';
import { WokenWork } from '#periodic';
import { Metrics, Traces, withWork } from '#telemetry';
import { isStruggling, jittered, verdictOn, type Answer, type Verdict } from '../domain/retries.js';
import { signedHeaders } from '../domain/signature.js';
import { Slots } from '../domain/slots.js';
import { KeepSecrets, type KeptSecret } from './keep-secrets.js';

/** A delivery that is ours until its lease runs out: whoever takes it then raises the epoch, and our writes are refused. */
export interface ClaimedDelivery {
  tenant: string;
  deliveryId: string;
  epoch: number;
  /** How often it was tried before, and how often of these since it was last begun anew it failed. */
  attempts: number;
  failures: number;
  endpointId: string;
  url: string;
  /** Those that are good, newest first. */
  secrets: KeptSecret[];
  messageId: string;
  payload: string;
  /** Of the request that it goes back to. */
  traceparent: string | null;
}

/** An attempt to deliver, and what follows from it. */
export interface Attempt {
  at: Date;
  durationMs: number;
  answer: Answer;
  verdict: Verdict;
}

export abstract class DueDeliveries {
  /**
   * Takes deliveries that are due and that nobody works on, those of enabled endpoints.
   *
   * @param slots how many at most: of all, of one endpoint, and of those endpoints for which that is another number; of one
   *   tenant, and of those for which that is another number
   * @param signing the master keys that are here; what takes another one is left to who has that, for as long as is said
   */
  abstract claim(
    leaseMs: number,
    slots: {
      ofAll: number;
      ofOne: number;
      exceptions: ReadonlyMap<string, number>;
      ofTenant: number;
      tenants: ReadonlyMap<string, number>;
    },
    signing: { masterIds: readonly string[]; othersForMs: number },
  ): Promise<ClaimedDelivery[]>;
  /** Notes the attempt and what follows. @returns whether the delivery was still ours */
  abstract settle(delivery: ClaimedDelivery, attempt: Attempt): Promise<boolean>;
  /** Has one wait that could not be sent for a reason of ours, which is no attempt. */
  abstract putOff(delivery: ClaimedDelivery, error: string, waitMs: number): Promise<void>;
}

export abstract class WebhookSender {
  /** Posts a body. Whatever happens is an answer. */
  abstract send(url: string, headers: Record<string, string>, body: string): Promise<Answer>;
}

export interface DeliveryLimits {
  /** How long is waited after each failure; after as many there is one last attempt. */
  delaysMs: readonly number[];
  /** How long a delivery whose worker was killed waits for another one: longer than sending takes. */
  leaseMs: number;
  /** How many are sent at a time by one instance: to one endpoint, and to all. */
  ofOne: number;
  ofAll: number;
  /** How often is looked without being woken: another instance may have made a delivery, or one has waited long enough. */
  pollMs: number;
  /**
   * Where the key is missing that the secret of an endpoint is encrypted by way of: how long a delivery is left to instances
   * that have it, and how long it is put off where none of them has come.
   */
  unsignedMs: number;
  /**
   * How long after its start an instance leaves secrets as they are that lie there so: the version before, which reads no
   * others, may still run beside it.
   */
  plainForMs: number;
}

/** Seconds. */
const bounds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15];

export const deliveryLimits = Symbol('delivery limits');

/** Sends the deliveries that are due, at least once. Each is sent on its own, so a slow endpoint does not delay others. */
@Injectable()
export class DeliverMessages extends WokenWork {
  private readonly slots: Slots;
  private readonly underWay = new Set<Promise<void>>();
  private readonly duration: Histogram | undefined;

  constructor(
    private readonly deliveries: DueDeliveries,
    private readonly sender: WebhookSender,
    private readonly secrets: KeepSecrets,
    @Inject(deliveryLimits) private readonly limits: DeliveryLimits,
    @Optional() @Inject(Metrics) metrics?: Metrics,
    @Optional() @Inject(Traces) private readonly traces?: Traces,
  ) {
    super({
      pollMs: limits.pollMs,
      failing: 'webhooks cannot be delivered, trying again until it works',
      working: 'webhooks are being delivered again',
    });
    this.slots = new Slots(limits.ofOne, limits.ofAll);
    this.duration = metrics?.meter('webhooks').createHistogram('webhooks.attempt.duration', {
      unit: 's',
      description: 'Duration of webhook requests, by outcome of the delivery and whether it was a retry.',
      advice: { explicitBucketBoundaries: bounds },
    });
  }

  /** Who comes to an end makes room and wakes, so there is never more at once. */
  protected async execute(): Promise<boolean> {
    const { free, exceptions, ofTenant, tenants } = this.slots;
    if (free === 0) return false;
    const { leaseMs, ofOne, unsignedMs } = this.limits;
    const slots = { ofAll: free, ofOne, exceptions, ofTenant, tenants };
    const signing = { masterIds: this.secrets.masterIds, othersForMs: unsignedMs };
    for (const it of await this.deliveries.claim(leaseMs, slots, signing)) {
      this.slots.take(it.tenant, it.endpointId);
      const delivering = this.traced(it).finally(() => this.underWay.delete(delivering));
      this.underWay.add(delivering);
    }
    return false;
  }

  /** Finishes what is being sent, for which the sender has a limit; the rest waits for the next worker. */
  protected override async leave(): Promise<void> {
    await Promise.all(this.underWay);
  }

  private traced(delivery: ClaimedDelivery): Promise<void> {
    const { tenant, traceparent } = delivery;
    const deliver = () => this.deliver(delivery);
    if (!this.traces?.areOpen) return withWork({ tenant, traceparent: traceparent ?? undefined }, deliver);
    return this.traces.ofMany('deliver webhook', [traceparent ?? undefined], { kind: 'client' }, deliver);
  }

  private async deliver(delivery: ClaimedDelivery): Promise<void> {
    const { tenant, deliveryId, endpointId } = delivery;
    let isSlowedDown = true;
    try {
      const secrets = this.openedSecrets(delivery);
      if (secrets instanceof CleaveError) {
        const waitMs = jittered(this.limits.unsignedMs, Math.random());
        return await this.deliveries.putOff(delivery, `the message cannot be signed. ${secrets.detail}`, waitMs);
      }
      const attempt = await this.send(delivery, secrets);
      isSlowedDown = isStruggling(attempt.answer);
      const repeat = delivery.attempts > 0;
      this.duration?.record(attempt.durationMs / 1_000, { outcome: attempt.verdict.status, repeat });
      const isOurs = await this.deliveries.settle(delivery, attempt);
      if (!isOurs)
        this.logger.warn(`another instance has taken over webhook delivery ${deliveryId}: it may be delivered twice`);
      else if (attempt.verdict.disabledFor !== null)
        this.logger.warn(`webhook endpoint ${endpointId} was disabled: ${attempt.verdict.disabledFor}`);
    } catch (error) {
      this.logger.warn(
        `the outcome of webhook delivery ${deliveryId} could not be stored; it will be sent again (${String(error)})`,
      );
    } finally {
      this.slots.giveBack(tenant, endpointId, isSlowedDown);
      this.wake();
    }
  }

  /** All of them: receivers know one each. */
  private openedSecrets({ tenant, endpointId, secrets }: ClaimedDelivery): string[] | CleaveError {
    try {
      return secrets.map((it) => this.secrets.open(tenant, endpointId, it));
    } catch (error) {
      if (error instanceof CleaveError) return error;
      throw error;
    }
  }

  private async send({ url, messageId, payload, failures }: ClaimedDelivery, secrets: string[]): Promise<Attempt> {
    const at = new Date();
    const answer = await this.sender.send(url, signedHeaders(messageId, payload, secrets, at), payload);
    const now = new Date();
    const verdict = verdictOn(answer, failures, this.limits.delaysMs, now, Math.random());
    return { at, durationMs: Math.max(0, now.getTime() - at.getTime()), answer, verdict };
  }
}
