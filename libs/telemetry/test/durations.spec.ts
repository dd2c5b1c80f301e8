import { describe, expect, it } from '@jest/globals';
import { Metrics } from '../src/metrics.js';

const bounds = [0.001, 0.01, 0.1];

describe('durations', () => {
  it('are exported like a histogram of OpenTelemetry, with their attributes', async () => {
    const metrics = new Metrics();
    const [description, names] = ['How long it takes.', ['http.request.method', 'http.route', 'error.type']] as const;
    const theirs = metrics
      .meter('one')
      .createHistogram('some.duration', { unit: 's', description, advice: { explicitBucketBoundaries: bounds } });
    const ours = metrics.durationsOf('one', { name: 'some.duration', description, bounds, attributes: names });
    const recorded = [
      ...([0.0005, 0.001, 0.05, 0.1, 3] as const).map((seconds) => [seconds, 'GET', '/things/:id', undefined] as const),
      [0.01, 'GET', '/things/:id', '500'] as const,
      [0.02, 'POST', undefined, 'closed'] as const,
    ];
    for (const [seconds, ...values] of recorded) {
      ours!.record(seconds, ...values);
      const told = names.map((name, at) => [name, values[at]] as const).filter(([, value]) => value !== undefined);
      theirs.record(seconds, Object.fromEntries(told));
    }
    const { text, errors } = await metrics.read();
    expect(errors).toEqual([]);
    const lines = text.split('\n').filter((line) => line.startsWith('some_duration_seconds_'));
    expect(lines).toHaveLength(36);
    expect(lines.slice(18)).toEqual(lines.slice(0, 18));
    await metrics.stop();
  });

  it('with the same name and scope share one histogram, which is exported only once it has a value', async () => {
    const metrics = new Metrics();
    const options = { name: 'some.duration', description: 'How long it takes.', bounds, attributes: [] };
    const [one, again] = [metrics.durationsOf('one', options), metrics.durationsOf('one', options)];
    const other = metrics.durationsOf('other', options);
    expect((await metrics.read()).text).not.toContain('some_duration');
    for (const it of [one, again, other]) it!.record(0.05);
    const { text } = await metrics.read();
    expect(text.match(/^some_duration_seconds_count.*$/gm)).toEqual([
      'some_duration_seconds_count{otel_scope_name="one"} 2',
      'some_duration_seconds_count{otel_scope_name="other"} 1',
    ]);
    await metrics.stop();
  });

  it('are undefined if metrics are disabled', () => {
    expect(
      new Metrics(true).durationsOf('off', { name: 'a', description: '', bounds, attributes: [] }),
    ).toBeUndefined();
  });
});
