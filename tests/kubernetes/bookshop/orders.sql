create database if not exists orders;
create table if not exists orders.orders (title text);
create user if not exists orders identified by 'orders';
grant all on orders.* to orders;
