create table if not exists orders (
  id int generated always as identity primary key,
  item text not null,
  state text not null default 'new' check (state in ('new', 'paid', 'shipped'))
);

-- Changes are kept for an hour, so that a page that was disconnected receives what it missed.
select pgws.retain('orders', interval '1 hour');
-- Each change of the table is a message in the channel "orders", whoever makes it.
select pgws.watch('orders', 'orders');
