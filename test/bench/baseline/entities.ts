import {
  Column,
  CreateDateColumn,
  Entity,
  ManyToOne,
  OneToMany,
  PrimaryColumn,
  PrimaryGeneratedColumn,
  type Relation,
} from 'typeorm';

@Entity()
export class Product {
  @PrimaryColumn()
  id!: string;

  @Column()
  name!: string;

  @Column()
  unitPriceMinor!: number;

  @Column()
  currency!: string;

  @Column({ default: 0 })
  onHand!: number;

  @Column({ default: 0 })
  reserved!: number;
}

@Entity()
export class Order {
  @PrimaryGeneratedColumn('uuid')
  id!: string;

  @Column()
  customerId!: string;

  @Column()
  status!: string;

  @Column()
  currency!: string;

  @Column()
  totalMinor!: number;

  @OneToMany(() => OrderLine, (line) => line.order, { cascade: true })
  lines!: OrderLine[];

  @CreateDateColumn()
  createdAt!: Date;
}

@Entity()
export class OrderLine {
  @PrimaryGeneratedColumn()
  id!: number;

  @ManyToOne(() => Order, (order) => order.lines)
  order!: Relation<Order>;

  @Column()
  productId!: string;

  @Column()
  name!: string;

  @Column()
  quantity!: number;

  @Column()
  unitPriceMinor!: number;
}

@Entity()
export class IdempotencyKey {
  @PrimaryColumn()
  key!: string;

  @Column('jsonb')
  response!: object;
}

@Entity()
export class Outbox {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column()
  type!: string;

  @Column('jsonb')
  payload!: object;

  @CreateDateColumn()
  createdAt!: Date;
}
