#include "model/tracer.h"

#include <assert.h>
#include <string.h>

#include "model/account_table.h"
#include "model/block_table.h"
#include "model/sampling.h"

struct domain {
	uint32_t id;
	uint32_t peak_epoch;
	bool at_peak;			  /* the live numbers are the peak's */
	struct tm_totals totals;	  /* without the variances, which ... */
	uint64_t variance, peak_variance; /* ... are these, in units of sampling.h */
	struct tm_block_table blocks;
};

struct tm_tracer {
	struct tm_tracebacks *tracebacks;
	struct tm_account_table accounts;
	uint64_t mean_bytes; /* between samples; 0: every call is an event */
	uint32_t image;	     /* times that exec was seen */
	uint32_t domain_count;
	struct domain domains[TM_DOMAINS_MAX];
};

struct tm_error *tm_tracer_create(struct tm_tracer **out)
{
	struct tm_tracer *tracer = calloc(1, sizeof(*tracer));
	struct tm_error *err;

	if (!tracer)
		return tm_error_out_of_memory();
	err = tm_tracebacks_create(&tracer->tracebacks);
	if (err) {
		free(tracer);
		return err;
	}
	*out = tracer;
	return NULL;
}

void tm_tracer_destroy(struct tm_tracer *tracer)
{
	if (!tracer)
		return;
	for (uint32_t i = 0; i < tracer->domain_count; i++)
		tm_block_table_deinit(&tracer->domains[i].blocks);
	tm_account_table_deinit(&tracer->accounts);
	tm_tracebacks_destroy(tracer->tracebacks);
	free(tracer);
}

void tm_tracer_sample(struct tm_tracer *tracer, uint64_t mean_bytes)
{
	assert(!tracer->accounts.count && mean_bytes <= INT64_MAX);
	tracer->mean_bytes = mean_bytes;
	tracer->accounts.has_variances = mean_bytes;
}

struct tm_tracebacks *tm_tracer_tracebacks(const struct tm_tracer *tracer)
{
	return tracer->tracebacks;
}

static const struct domain *find_domain(const struct tm_tracer *tracer, uint32_t id)
{
	for (uint32_t i = 0; i < tracer->domain_count; i++) {
		if (tracer->domains[i].id == id)
			return &tracer->domains[i];
	}
	return NULL;
}

static struct domain *claim_domain(struct tm_tracer *tracer, uint32_t id)
{
	struct domain *domain = (struct domain *)find_domain(tracer, id);

	if (domain)
		return domain;
	assert(tracer->domain_count < TM_DOMAINS_MAX);
	domain = &tracer->domains[tracer->domain_count++];
	domain->id = id;
	return domain;
}

static bool account_has_changed(const struct domain *domain, const struct tm_account *account)
{
	return !domain->at_peak && account->peak_stamp == domain->peak_epoch;
}

static void read_peak(const struct domain *domain, const struct tm_account *account, uint64_t *size,
		      uint64_t *count)
{
	bool changed = account_has_changed(domain, account);

	*size = changed ? account->peak_size : account->size;
	*count = changed ? account->peak_count : account->count;
}

static bool account_is_idle(const void *tracer, const struct tm_account *account)
{
	uint64_t size, count;

	if (account->count)
		return false;
	read_peak(find_domain(tracer, account->domain), account, &size, &count);
	return !count;
}

/* After 2^32 epochs an account that slept all the while would look changed: all of them save their peak anew.
 */
static void restart_epochs(struct tm_tracer *tracer, struct domain *domain)
{
	for (uint32_t i = 0; i < tracer->accounts.count; i++) {
		struct tm_account *account = tm_account_table_get(&tracer->accounts, i);

		if (account->domain == domain->id)
			account->peak_stamp = 0;
	}
	domain->peak_epoch = 1;
}

/*
 * The domain is about to hold `current` bytes in `blocks` blocks. Goes before the change of any account, for
 * it decides what an account saves.
 */
static void settle(struct tm_tracer *tracer, struct domain *domain, uint64_t current, uint64_t blocks)
{
	struct tm_totals *totals = &domain->totals;

	totals->current = current;
	totals->blocks = blocks;
	if (current > totals->peak) {
		totals->peak = current;
		totals->peak_blocks = blocks;
		domain->at_peak = true;
	} else if (domain->at_peak) {
		domain->at_peak = false;
		if (++domain->peak_epoch == 0)
			restart_epochs(tracer, domain);
	}
}

static bool owes_peak(const struct domain *domain, const struct tm_account *account)
{
	return !domain->at_peak && account->peak_stamp != domain->peak_epoch;
}

/* The account, about to change: saves what it held at the peak if that is not done. */
static struct tm_account *touch_account(struct tm_tracer *tracer, const struct domain *domain,
					uint32_t number)
{
	struct tm_account *account = tm_account_table_get(&tracer->accounts, number);

	if (owes_peak(domain, account)) {
		account->peak_stamp = domain->peak_epoch;
		account->peak_size = account->size;
		account->peak_count = account->count;
	}
	return account;
}

static void account_add(struct tm_tracer *tracer, const struct domain *domain, uint32_t number, uint64_t size)
{
	struct tm_account *account = touch_account(tracer, domain, number);

	account->size += size;
	account->count++;
}

static void account_subtract(struct tm_tracer *tracer, const struct domain *domain, uint32_t number,
			     uint64_t size)
{
	struct tm_account *account = touch_account(tracer, domain, number);

	account->size -= size;
	account->count--;
}

/* ---- the same with weights, where events are samples ----

   Samples are rare: this stands apart (noinline), so that nothing of it is in the way of a tracer for which
   every call is an event. */

static struct tm_weight weigh(const struct tm_tracer *tracer, const struct tm_block_entry *block)
{
	return tm_sampling_weight(tracer->mean_bytes, block->address, block->size, block->time);
}

static struct tm_weight weigh_allocation(const struct tm_tracer *tracer, const struct tm_allocation *in)
{
	return tm_sampling_weight(tracer->mean_bytes, in->address, in->size, in->time);
}

static void add_weight(struct tm_weight *sum, const struct tm_weight *weight)
{
	sum->size += weight->size;
	sum->count += weight->count;
	sum->variance += weight->variance;
}

static void subtract_weight(struct tm_weight *sum, const struct tm_weight *weight)
{
	sum->size -= weight->size;
	sum->count -= weight->count;
	sum->variance -= weight->variance;
}

static struct tm_weight live_weight(const struct domain *domain)
{
	return (struct tm_weight){domain->totals.current, domain->totals.blocks, domain->variance};
}

static void settle_weight(struct tm_tracer *tracer, struct domain *domain, const struct tm_weight *live)
{
	settle(tracer, domain, live->size, live->count);
	domain->variance = live->variance;
	if (domain->at_peak)
		domain->peak_variance = live->variance;
}

static void account_change_weight(struct tm_tracer *tracer, const struct domain *domain, uint32_t number,
				  const struct tm_weight *weight,
				  void (*change)(struct tm_weight *sum, const struct tm_weight *weight))
{
	struct tm_account *account = tm_account_table_get(&tracer->accounts, number);
	struct tm_account_variance *variance = tm_account_table_variance(&tracer->accounts, number);
	struct tm_weight sum = {account->size, account->count, variance->live};

	if (owes_peak(domain, account))
		variance->peak = variance->live;
	touch_account(tracer, domain, number);
	change(&sum, weight);
	account->size = sum.size;
	account->count = sum.count;
	variance->live = sum.variance;
}

__attribute__((noinline)) static void release_weight(struct tm_tracer *tracer, struct domain *domain,
						     const struct tm_block_entry *block)
{
	struct tm_weight live = live_weight(domain), weight = weigh(tracer, block);

	subtract_weight(&live, &weight);
	settle_weight(tracer, domain, &live);
	account_change_weight(tracer, domain, block->account, &weight, subtract_weight);
}

/* ---- events ---- */

/* Forgets the bytes of a block that is no longer in the table. */
static void release(struct tm_tracer *tracer, struct domain *domain, const struct tm_block_entry *block)
{
	if (tracer->mean_bytes) {
		release_weight(tracer, domain, block);
		return;
	}
	settle(tracer, domain, domain->totals.current - block->size, domain->totals.blocks - 1);
	account_subtract(tracer, domain, block->account, block->size);
}

/* A block that was held when exec replaced the program is gone with it. */
static bool is_held(const struct tm_tracer *tracer, const struct tm_held *held)
{
	return held->known && held->image == tracer->image;
}

static struct tm_block_entry held_entry(const struct tm_held *held)
{
	return (struct tm_block_entry){.address = held->block.address,
				       .size = held->block.size,
				       .time = held->block.time,
				       .account = held->block.account};
}

static void release_held(struct tm_tracer *tracer, struct domain *domain, struct tm_held *held)
{
	struct tm_block_entry block = held_entry(held);

	if (is_held(tracer, held))
		release(tracer, domain, &block);
	held->known = false;
}

/* What leaves and what comes, as one step: the peak sees only the outcome. */
struct exchange {
	const struct tm_allocation *in;
	uint32_t account;
	struct tm_block_entry *place; /* still with what is replaced */
	const struct tm_held *held;   /* the block before realloc, or NULL */
};

static void apply_exchange(struct tm_tracer *tracer, struct domain *domain, const struct exchange *exchange)
{
	const struct tm_allocation *in = exchange->in;
	const struct tm_block_entry *replaced = exchange->place;
	const struct tm_held *held = exchange->held;
	bool replaces = replaced->account != UINT32_MAX;
	uint64_t current = domain->totals.current + in->size, blocks = domain->totals.blocks + 1;

	if (replaces) {
		current -= replaced->size;
		blocks--;
	}
	if (held) {
		current -= held->block.size;
		blocks--;
	}
	settle(tracer, domain, current, blocks);
	if (replaces)
		account_subtract(tracer, domain, replaced->account, replaced->size);
	if (held)
		account_subtract(tracer, domain, held->block.account, held->block.size);
	account_add(tracer, domain, exchange->account, in->size);
}

__attribute__((noinline)) static void
apply_exchange_of_weight(struct tm_tracer *tracer, struct domain *domain, const struct exchange *exchange)
{
	struct tm_weight live = live_weight(domain), in = weigh_allocation(tracer, exchange->in);
	struct tm_block_entry gone[2];
	struct tm_weight weights[2];
	size_t count = 0;

	if (exchange->place->account != UINT32_MAX)
		gone[count++] = *exchange->place;
	if (exchange->held)
		gone[count++] = held_entry(exchange->held);
	add_weight(&live, &in);
	for (size_t i = 0; i < count; i++) {
		weights[i] = weigh(tracer, &gone[i]);
		subtract_weight(&live, &weights[i]);
	}
	settle_weight(tracer, domain, &live);
	for (size_t i = 0; i < count; i++)
		account_change_weight(tracer, domain, gone[i].account, &weights[i], subtract_weight);
	account_change_weight(tracer, domain, exchange->account, &in, add_weight);
}

/* Puts a block in place of a held one (or of none, NULL), or of the one that is known at its address. */
static struct tm_error *put_block(struct tm_tracer *tracer, struct domain *domain,
				  const struct tm_allocation *in, const struct tm_held *held)
{
	struct exchange exchange = {.in = in, .held = held};

	exchange.account = tm_account_table_claim(&tracer->accounts, in, account_is_idle, tracer);
	if (exchange.account == UINT32_MAX)
		return tm_error_out_of_memory();
	exchange.place = tm_block_table_claim(&domain->blocks, in->address);
	if (!exchange.place)
		return tm_error_out_of_memory();
	if (tracer->mean_bytes)
		apply_exchange_of_weight(tracer, domain, &exchange);
	else
		apply_exchange(tracer, domain, &exchange);
	exchange.place->size = in->size;
	exchange.place->time = in->time;
	exchange.place->account = exchange.account;
	return NULL;
}

__attribute__((noinline)) static void count_allocation_of_weight(const struct tm_tracer *tracer,
								 struct domain *domain,
								 const struct tm_allocation *in)
{
	struct tm_weight weight = weigh_allocation(tracer, in);

	domain->totals.allocations += weight.count;
	domain->totals.allocated += weight.size;
}

static struct tm_error *exchange_block(struct tm_tracer *tracer, struct domain *domain,
				       const struct tm_allocation *in, const struct tm_held *held)
{
	struct tm_error *err = put_block(tracer, domain, in, held);

	if (err)
		return err;
	if (tracer->mean_bytes) {
		count_allocation_of_weight(tracer, domain, in);
		return NULL;
	}
	domain->totals.allocations++;
	domain->totals.allocated += in->size;
	return NULL;
}

struct tm_error *tm_tracer_track(struct tm_tracer *tracer, const struct tm_allocation *allocation)
{
	return exchange_block(tracer, claim_domain(tracer, allocation->domain), allocation, NULL);
}

static void count_free(const struct tm_tracer *tracer, struct domain *domain,
		       const struct tm_block_entry *block)
{
	domain->totals.frees += tracer->mean_bytes ? weigh(tracer, block).count : 1;
}

static void count_held_free(const struct tm_tracer *tracer, struct domain *domain, const struct tm_held *held)
{
	struct tm_block_entry block = held_entry(held);

	count_free(tracer, domain, &block);
}

/* Whoever decides in the target whether a block was sampled may err: such frees mean nothing. */
static void count_unknown_free(const struct tm_tracer *tracer, struct domain *domain)
{
	domain->totals.unknown_frees += !tracer->mean_bytes;
}

bool tm_tracer_untrack(struct tm_tracer *tracer, uint32_t domain_id, uint64_t address)
{
	struct domain *domain = claim_domain(tracer, domain_id);
	struct tm_block_entry block;

	if (!tm_block_table_take(&domain->blocks, address, &block)) {
		count_unknown_free(tracer, domain);
		return false;
	}
	release(tracer, domain, &block);
	count_free(tracer, domain, &block);
	return true;
}

void tm_tracer_prefetch(const struct tm_tracer *tracer, uint32_t domain_id, uint64_t address)
{
	const struct domain *domain = find_domain(tracer, domain_id);

	if (domain)
		tm_block_table_prefetch(&domain->blocks, address);
}

bool tm_tracer_knows(const struct tm_tracer *tracer, uint32_t domain_id, uint64_t address)
{
	const struct domain *domain = find_domain(tracer, domain_id);

	return domain && tm_block_table_find(&domain->blocks, address);
}

bool tm_tracer_find(const struct tm_tracer *tracer, uint32_t domain_id, uint64_t address, uint64_t *size)
{
	const struct domain *domain = find_domain(tracer, domain_id);
	const struct tm_block_entry *block = domain ? tm_block_table_find(&domain->blocks, address) : NULL;

	if (block)
		*size = block->size;
	return block;
}

struct tm_error *tm_tracer_move(struct tm_tracer *tracer, const struct tm_allocation *allocation)
{
	struct domain *domain = claim_domain(tracer, allocation->domain);
	const struct tm_block_entry *block = NULL;
	struct tm_allocation in = *allocation;

	if (tracer->mean_bytes)
		block = tm_block_table_find(&domain->blocks, in.address);
	if (block)
		in.time = block->time;
	return put_block(tracer, domain, &in, NULL);
}

void tm_tracer_failed(struct tm_tracer *tracer, uint32_t domain)
{
	claim_domain(tracer, domain)->totals.failed++;
}

void tm_tracer_unknown_free(struct tm_tracer *tracer, uint32_t domain)
{
	count_unknown_free(tracer, claim_domain(tracer, domain));
}

static struct tm_block public_block(const struct domain *domain, const struct tm_block_entry *entry)
{
	return (struct tm_block){entry->address, entry->size, entry->time, entry->account, domain->id};
}

struct tm_held tm_tracer_resize_begin(struct tm_tracer *tracer, uint32_t domain_id, uint64_t old_address)
{
	struct domain *domain = claim_domain(tracer, domain_id);
	struct tm_held held = {.image = tracer->image};
	struct tm_block_entry block;

	if (tm_block_table_take(&domain->blocks, old_address, &block)) {
		held.known = true;
		held.block = public_block(domain, &block);
	}
	return held;
}

struct tm_error *tm_tracer_resize_end(struct tm_tracer *tracer, struct tm_held *held,
				      const struct tm_allocation *allocation)
{
	struct domain *domain = claim_domain(tracer, allocation->domain);
	bool known = is_held(tracer, held);
	struct tm_error *err;

	assert(!known || held->block.domain == domain->id);
	err = exchange_block(tracer, domain, allocation, known ? held : NULL);

	if (err) {
		release_held(tracer, domain, held);
		return err;
	}
	if (known)
		count_held_free(tracer, domain, held);
	held->known = false;
	return NULL;
}

struct tm_error *tm_tracer_resize_cancel(struct tm_tracer *tracer, struct tm_held *held)
{
	struct domain *domain;
	struct tm_block_entry *place;

	if (!is_held(tracer, held))
		return NULL;
	domain = claim_domain(tracer, held->block.domain);
	place = tm_block_table_claim(&domain->blocks, held->block.address);
	if (!place || place->account != UINT32_MAX) {
		release_held(tracer, domain, held);
		return place ? NULL : tm_error_out_of_memory();
	}
	place->size = held->block.size;
	place->time = held->block.time;
	place->account = held->block.account;
	held->known = false;
	return NULL;
}

void tm_tracer_resize_freed(struct tm_tracer *tracer, struct tm_held *held, uint32_t domain_id)
{
	struct domain *domain = claim_domain(tracer, domain_id);

	if (is_held(tracer, held))
		count_held_free(tracer, domain, held);
	else
		count_unknown_free(tracer, domain);
	release_held(tracer, domain, held);
}

void tm_tracer_new_epoch(struct tm_tracer *tracer)
{
	tracer->image++;
	tm_account_table_deinit(&tracer->accounts);
	tracer->accounts.has_variances = tracer->mean_bytes;
	for (uint32_t i = 0; i < tracer->domain_count; i++) {
		struct domain *domain = &tracer->domains[i];

		tm_block_table_deinit(&domain->blocks);
		domain->totals.current = domain->totals.peak = 0;
		domain->totals.blocks = domain->totals.peak_blocks = 0;
		domain->variance = domain->peak_variance = 0;
		domain->at_peak = false;
		domain->peak_epoch = 0;
	}
}

void tm_tracer_forget_totals(struct tm_tracer *tracer)
{
	for (uint32_t i = 0; i < tracer->domain_count; i++) {
		assert(tracer->domains[i].totals.blocks == 0);
		tracer->domains[i].totals = (struct tm_totals){0};
		tracer->domains[i].peak_variance = 0;
	}
}

void tm_tracer_claim_domain(struct tm_tracer *tracer, uint32_t domain)
{
	claim_domain(tracer, domain);
}

uint32_t tm_tracer_domain_count(const struct tm_tracer *tracer)
{
	return tracer->domain_count;
}

uint32_t tm_tracer_domain(const struct tm_tracer *tracer, uint32_t index)
{
	return tracer->domains[index].id;
}

struct tm_totals tm_tracer_totals(const struct tm_tracer *tracer, uint32_t domain_id)
{
	const struct domain *domain = find_domain(tracer, domain_id);
	struct tm_totals totals;

	if (!domain)
		return (struct tm_totals){0};
	totals = domain->totals;
	totals.current_variance = tm_sampling_variance(tracer->mean_bytes, domain->variance);
	totals.peak_variance = tm_sampling_variance(tracer->mean_bytes, domain->peak_variance);
	return totals;
}

uint32_t tm_tracer_account_count(const struct tm_tracer *tracer)
{
	return tracer->accounts.count;
}

const struct tm_account *tm_tracer_account(const struct tm_tracer *tracer, uint32_t account)
{
	return tm_account_table_get(&tracer->accounts, account);
}

void tm_account_at_peak(const struct tm_tracer *tracer, const struct tm_account *account, uint64_t *size,
			uint64_t *count)
{
	read_peak(find_domain(tracer, account->domain), account, size, count);
}

double tm_account_variance(const struct tm_tracer *tracer, uint32_t account)
{
	if (!tracer->mean_bytes)
		return 0;
	return tm_sampling_variance(tracer->mean_bytes,
				    tm_account_table_variance(&tracer->accounts, account)->live);
}

double tm_account_variance_at_peak(const struct tm_tracer *tracer, uint32_t account)
{
	const struct tm_account *row = tm_tracer_account(tracer, account);

	if (!tracer->mean_bytes || !account_has_changed(find_domain(tracer, row->domain), row))
		return tm_account_variance(tracer, account);
	return tm_sampling_variance(tracer->mean_bytes,
				    tm_account_table_variance(&tracer->accounts, account)->peak);
}

void tm_tracer_each_block(const struct tm_tracer *tracer,
			  bool (*visit)(const struct tm_block *block, void *context), void *context)
{
	for (uint32_t i = 0; i < tracer->domain_count; i++) {
		const struct domain *domain = &tracer->domains[i];
		const struct tm_block_entry *entry;
		uint64_t position = 0;

		while ((entry = tm_block_table_next(&domain->blocks, &position))) {
			struct tm_block block = public_block(domain, entry);

			if (!visit(&block, context))
				return;
		}
	}
}

uint64_t tm_tracer_block_count(const struct tm_tracer *tracer)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < tracer->domain_count; i++)
		count += tracer->domains[i].blocks.live;
	return count;
}

size_t tm_tracer_memory(const struct tm_tracer *tracer)
{
	size_t size = sizeof(*tracer) + tm_account_table_memory(&tracer->accounts) +
		      tm_tracebacks_memory(tracer->tracebacks);

	for (uint32_t i = 0; i < tracer->domain_count; i++)
		size += tm_block_table_memory(&tracer->domains[i].blocks);
	return size;
}
