export { InventoryModule, inventoryEnvironment } from './inventory.module.js';
