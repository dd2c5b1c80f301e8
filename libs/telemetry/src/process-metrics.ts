import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import { cpuUsage, memoryUsage, uptime } from 'node:process';
import { getHeapSpaceStatistics } from 'node:v8';
import type { Meter } from '@opentelemetry/api';

const sampledEveryMs = 20;
const nanosecondsPerSecond = 1e9;

/**
 * The basic metrics of a process, named by the semantic conventions of OpenTelemetry. They are read on request; only the
 * delay of the event loop is sampled in between.
 *
 * @returns a function that ends the sampling
 */
export const observeProcess = (meter: Meter): (() => void) => {
  meter
    .createObservableGauge('process.uptime', { unit: 's', description: 'Uptime of the process.' })
    .addCallback((result) => result.observe(uptime()));
  meter
    .createObservableCounter('process.cpu.time', { unit: 's', description: 'CPU time used by the process.' })
    .addCallback((result) => {
      const { user, system } = cpuUsage();
      result.observe(user / 1e6, { 'cpu.mode': 'user' });
      result.observe(system / 1e6, { 'cpu.mode': 'system' });
    });
  meter
    .createObservableUpDownCounter('process.memory.usage', { unit: 'By', description: 'Physical memory in use.' })
    .addCallback((result) => result.observe(memoryUsage.rss()));
  meter
    .createObservableUpDownCounter('v8js.memory.heap.used', { unit: 'By', description: 'Heap memory in use.' })
    .addCallback((result) => {
      for (const { space_name, space_used_size } of getHeapSpaceStatistics())
        result.observe(space_used_size, { 'v8js.heap.space.name': space_name });
    });
  meter
    .createObservableCounter('nodejs.eventloop.time', { unit: 's', description: 'Time the event loop was active.' })
    .addCallback((result) => {
      const { active, idle } = performance.eventLoopUtilization();
      result.observe(active / 1e3, { 'nodejs.eventloop.state': 'active' });
      result.observe(idle / 1e3, { 'nodejs.eventloop.state': 'idle' });
    });
  return observeDelay(meter);
};

/** The delay of the event loop since the last reading. */
const observeDelay = (meter: Meter): (() => void) => {
  const delay = monitorEventLoopDelay({ resolution: sampledEveryMs });
  delay.enable();
  const figures: Record<string, () => number> = {
    min: () => beyondSampling(delay.min),
    max: () => beyondSampling(delay.max),
    mean: () => beyondSampling(delay.mean),
    stddev: () => delay.stddev,
    p50: () => beyondSampling(delay.percentile(50)),
    p90: () => beyondSampling(delay.percentile(90)),
    p99: () => beyondSampling(delay.percentile(99)),
  };
  const gauges = Object.entries(figures).map(([name, read]) => {
    const description = `Delay of the event loop: ${name} since it was last read.`;
    return {
      read,
      instrument: meter.createObservableGauge(`nodejs.eventloop.delay.${name}`, { unit: 's', description }),
    };
  });
  meter.addBatchObservableCallback(
    (result) => {
      if (delay.count === 0) return;
      for (const { read, instrument } of gauges) result.observe(instrument, read() / nanosecondsPerSecond);
      delay.reset();
    },
    gauges.map((it) => it.instrument),
  );
  return () => void delay.disable();
};

/** Node samples with a timer and reports the time between its ticks, which includes the sampling interval. */
const beyondSampling = (ns: number): number => Math.max(0, ns - sampledEveryMs * 1e6);
