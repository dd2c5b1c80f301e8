import { describe, expect, it } from '@jest/globals';
import { readMonolithEnvironment } from '../src/environment.js';

const faultsOf = (environment: Record<string, string>): string[] => {
  try {
    readMonolithEnvironment(environment);
    return [];
  } catch (error) {
    return (error as { faults: { variable: string; message: string }[] }).faults.map(
      ({ variable, message }) => `${variable} ${message}`,
    );
  }
};

describe('the environment of the monolith', () => {
  it('requires no variable', () => {
    expect(faultsOf({})).toEqual([]);
  });

  it('uses the database of the orders for API keys by default', () => {
    const [orders, all] = ['postgres://orders/x', 'postgres://all/x'];
    const keysOf = (environment: Record<string, string>) => readMonolithEnvironment(environment).ACCESS_DATABASE_URL;
    expect(keysOf({})).toBeUndefined();
    expect(keysOf({ ORDER_DATABASE_URL: orders })).toBe(orders);
    expect(keysOf({ ORDER_DATABASE_URL: orders, DATABASE_URL: all })).toBe(all);
    expect(keysOf({ ORDER_DATABASE_URL: orders, ACCESS_DATABASE_URL: all })).toBe(all);
  });

  it('accepts the addresses of a module that runs elsewhere', () => {
    expect(faultsOf({ INVENTORY_AT: 'tcp://inventory:4002', INVENTORY_URL: 'http://inventory:3002' })).toEqual([]);
    expect(faultsOf({ SALES_URL: 'http://sales:3005' })).toEqual([]);
  });

  it('reports a missing address of a module that runs elsewhere', () => {
    expect(faultsOf({ INVENTORY_AT: 'tcp://inventory:4002', PAYMENT_URL: 'http://payment:3004' })).toEqual([
      'INVENTORY_URL is not set, but INVENTORY_AT says that inventory runs elsewhere; set it to http://host:port',
      'PAYMENT_AT is not set, but PAYMENT_URL says that the module runs elsewhere; set both or none',
    ]);
  });

  it('refuses ORDER_GRPC_LISTEN if order runs elsewhere', () => {
    const elsewhere = { ORDER_AT: 'tcp://order:4001', ORDER_URL: 'http://order:3001' };
    expect(faultsOf({ ...elsewhere, ORDER_GRPC_LISTEN: '127.0.0.1:5001' })).toEqual([
      'ORDER_GRPC_LISTEN is of no use, because order runs elsewhere (ORDER_AT); set it there and leave it out here',
    ]);
    expect(faultsOf({ ORDER_GRPC_LISTEN: '127.0.0.1:5001' })).toEqual([]);
  });

  it('refuses to listen for a module that runs elsewhere', () => {
    const elsewhere = { CACHE_AT: 'tcp://cache:4003', CACHE_URL: 'http://cache:3003' };
    expect(faultsOf({ ...elsewhere, CACHE_LISTEN: 'tcp://127.0.0.1:4003' })).toEqual([
      'CACHE_LISTEN is of no use, because cache runs elsewhere (CACHE_AT); set it there and leave it out here',
    ]);
    expect(faultsOf({ ORDER_LISTEN: 'tcp://127.0.0.1:4001', CACHE_LISTEN: 'tcp://127.0.0.1:4001' })).toEqual([]);
  });
});
