#include <criterion/criterion.h>
#include <string.h>

#include "base/hash.h"
#include "model/tracer.h"

static struct tm_tracer *tracer;

static void setup(void)
{
	cr_assert_null(tm_tracer_create(&tracer));
}

static void teardown(void)
{
	tm_tracer_destroy(tracer);
}

TestSuite(tracer, .init = setup, .fini = teardown);

static struct tm_allocation allocation(uint64_t address, uint64_t size)
{
	return (struct tm_allocation){.tid = 1, .traceback = 1, .address = address, .size = size, .time = 5};
}

static void track(uint64_t address, uint64_t size)
{
	struct tm_allocation in = allocation(address, size);

	cr_assert_null(tm_tracer_track(tracer, &in));
}

static void track_by(uint32_t domain, uint32_t tid, uint32_t traceback, uint64_t address, uint64_t size)
{
	struct tm_allocation in = {domain, tid, traceback, address, size, 0};

	cr_assert_null(tm_tracer_track(tracer, &in));
}

static void resize(uint64_t old_address, uint64_t address, uint64_t size)
{
	struct tm_held held = tm_tracer_resize_begin(tracer, 0, old_address);
	struct tm_allocation in = allocation(address, size);

	cr_assert_null(tm_tracer_resize_end(tracer, &held, &in));
	cr_assert_not(held.known);
}

#define totals_of(domain) tm_tracer_totals(tracer, (domain))

static const struct tm_account *account_of(uint32_t domain, uint32_t tid, uint32_t traceback)
{
	for (uint32_t i = 0; i < tm_tracer_account_count(tracer); i++) {
		const struct tm_account *account = tm_tracer_account(tracer, i);

		if (account->domain == domain && account->tid == tid && account->traceback == traceback)
			return account;
	}
	return NULL;
}

static void expect_peak(uint32_t domain, uint32_t tid, uint32_t traceback, uint64_t size, uint64_t count)
{
	const struct tm_account *account = account_of(domain, tid, traceback);
	uint64_t peak_size = 0, peak_count = 0;

	if (account)
		tm_account_at_peak(tracer, account, &peak_size, &peak_count);
	cr_assert_eq(peak_size, size, "peak of traceback %u: %lu bytes", traceback, (unsigned long)peak_size);
	cr_assert_eq(peak_count, count);
}

Test(tracer, a_block_used_again_goes_to_its_new_owner)
{
	struct tm_allocation again = {0, 2, 9, 16, 100, 7};
	uint64_t size = 0;

	track_by(0, 1, 1, 16, 100);
	track_by(0, 1, 1, 32, 50);
	cr_assert(tm_tracer_find(tracer, 0, 16, &size));
	cr_assert_eq(size, 100);
	cr_assert_not(tm_tracer_find(tracer, 0, 17, &size));
	cr_assert_null(tm_tracer_move(tracer, &again));
	cr_assert_eq(account_of(0, 1, 1)->size, 50);
	cr_assert_eq(account_of(0, 1, 1)->count, 1);
	cr_assert_eq(account_of(0, 2, 9)->size, 100);
	cr_assert_eq(totals_of(0).current, 150);
	cr_assert_eq(totals_of(0).blocks, 2);
	cr_assert_eq(totals_of(0).allocations, 2);
	cr_assert_eq(totals_of(0).frees, 0);
	expect_peak(0, 1, 1, 150, 2); /* as it was when the peak was reached */
	expect_peak(0, 2, 9, 0, 0);
	cr_assert(tm_tracer_untrack(tracer, 0, 16));
	cr_assert_eq(account_of(0, 2, 9)->count, 0);
}

Test(tracer, nothing_is_all_zero)
{
	struct tm_totals zero = {0}, totals = totals_of(0);

	cr_assert_arr_eq(&totals, &zero, sizeof(zero));
	cr_assert_eq(tm_tracer_domain_count(tracer), 0);
	cr_assert_not(tm_tracer_knows(tracer, 0, 16));
}

Test(tracer, track_and_untrack_count)
{
	track(16, 100);
	track(32, 50);
	cr_assert(tm_tracer_untrack(tracer, 0, 16));
	cr_assert_not(tm_tracer_untrack(tracer, 0, 16));
	tm_tracer_failed(tracer, 0);
	tm_tracer_unknown_free(tracer, 0);
	cr_assert_eq(totals_of(0).current, 50);
	cr_assert_eq(totals_of(0).peak, 150);
	cr_assert_eq(totals_of(0).blocks, 1);
	cr_assert_eq(totals_of(0).peak_blocks, 2);
	cr_assert_eq(totals_of(0).allocations, 2);
	cr_assert_eq(totals_of(0).allocated, 150);
	cr_assert_eq(totals_of(0).frees, 1);
	cr_assert_eq(totals_of(0).unknown_frees, 2);
	cr_assert_eq(totals_of(0).failed, 1);
}

Test(tracer, block_of_size_0_is_a_block)
{
	track(16, 0);
	cr_assert_eq(totals_of(0).blocks, 1);
	cr_assert_eq(totals_of(0).current, 0);
	cr_assert_eq(account_of(0, 1, 1)->count, 1);
	cr_assert(tm_tracer_untrack(tracer, 0, 16));
}

Test(tracer, equal_addresses_in_two_domains_are_two_blocks)
{
	track_by(0, 1, 1, 16, 10);
	track_by(389047, 1, 1, 16, 20);
	cr_assert_eq(tm_tracer_domain_count(tracer), 2);
	cr_assert_eq(tm_tracer_domain(tracer, 1), 389047);
	cr_assert(tm_tracer_untrack(tracer, 0, 16));
	cr_assert_not(tm_tracer_knows(tracer, 0, 16));
	cr_assert(tm_tracer_knows(tracer, 389047, 16));
	cr_assert_eq(totals_of(389047).current, 20);
	cr_assert_eq(totals_of(0).current, 0);
}

Test(tracer, tracking_a_known_address_replaces_it)
{
	track_by(0, 1, 1, 16, 100);
	track_by(0, 2, 2, 16, 30);
	cr_assert_eq(totals_of(0).current, 30);
	cr_assert_eq(totals_of(0).peak, 100);
	cr_assert_eq(totals_of(0).blocks, 1);
	cr_assert_eq(totals_of(0).frees, 0);
	cr_assert_eq(account_of(0, 1, 1)->count, 0);
	cr_assert_eq(account_of(0, 2, 2)->size, 30);
}

Test(tracer, peak_never_holds_both_sides_of_a_realloc)
{
	track(16, 100);
	resize(16, 32, 120);
	cr_assert_eq(totals_of(0).peak, 120);
	cr_assert_eq(totals_of(0).peak_blocks, 1);
	cr_assert_eq(totals_of(0).allocations, 2);
	cr_assert_eq(totals_of(0).frees, 1);
	cr_assert_not(tm_tracer_knows(tracer, 0, 16));
	resize(32, 32, 10);
	cr_assert_eq(totals_of(0).current, 10);
}

Test(tracer, realloc_of_an_unknown_block_starts_tracking_it)
{
	resize(16, 32, 40);
	cr_assert(tm_tracer_knows(tracer, 0, 32));
	cr_assert_eq(totals_of(0).current, 40);
	cr_assert_eq(totals_of(0).frees, 0);
	cr_assert_eq(totals_of(0).unknown_frees, 0);
}

Test(tracer, held_block_keeps_its_bytes_and_gives_up_its_address)
{
	struct tm_held held;

	track(16, 100);
	held = tm_tracer_resize_begin(tracer, 0, 16);
	cr_assert(held.known);
	cr_assert_eq(held.block.size, 100);
	cr_assert_not(tm_tracer_knows(tracer, 0, 16));
	cr_assert_eq(totals_of(0).current, 100);
	cr_assert_eq(totals_of(0).blocks, 1);
	track_by(0, 2, 2, 16, 7); /* another thread is given the address */
	cr_assert_eq(totals_of(0).peak, 107);
	cr_assert_null(tm_tracer_resize_end(tracer, &held, &(struct tm_allocation){0, 1, 1, 48, 200, 0}));
	cr_assert_eq(totals_of(0).current, 207);
	cr_assert_eq(totals_of(0).peak, 207);
	cr_assert_eq(account_of(0, 2, 2)->size, 7);
}

Test(tracer, failed_realloc_keeps_the_old_block)
{
	struct tm_totals before, after;
	struct tm_held held;

	track(16, 100);
	before = totals_of(0);
	held = tm_tracer_resize_begin(tracer, 0, 16);
	cr_assert_null(tm_tracer_resize_cancel(tracer, &held));
	cr_assert(tm_tracer_knows(tracer, 0, 16));
	after = totals_of(0);
	cr_assert_arr_eq(&before, &after, sizeof(before));
	cr_assert_null(tm_tracer_resize_cancel(tracer, &held));
	cr_assert_eq(totals_of(0).blocks, 1);
}

Test(tracer, abandoned_realloc_gives_way_to_a_newer_block)
{
	struct tm_held held;

	track(16, 100);
	held = tm_tracer_resize_begin(tracer, 0, 16);
	track_by(0, 2, 2, 16, 7);
	cr_assert_null(tm_tracer_resize_cancel(tracer, &held));
	cr_assert_eq(totals_of(0).current, 7);
	cr_assert_eq(totals_of(0).blocks, 1);
	cr_assert_eq(totals_of(0).frees, 0);
	cr_assert_eq(account_of(0, 1, 1)->count, 0);
}

Test(tracer, realloc_may_free)
{
	struct tm_held held;

	track(16, 100);
	held = tm_tracer_resize_begin(tracer, 0, 16);
	tm_tracer_resize_freed(tracer, &held, 0);
	held = tm_tracer_resize_begin(tracer, 0, 16);
	cr_assert_not(held.known);
	tm_tracer_resize_freed(tracer, &held, 0);
	cr_assert_eq(totals_of(0).current, 0);
	cr_assert_eq(totals_of(0).blocks, 0);
	cr_assert_eq(totals_of(0).frees, 1);
	cr_assert_eq(totals_of(0).unknown_frees, 1);
}

Test(tracer, peak_has_its_tracebacks)
{
	track_by(0, 1, 1, 16, 100);
	track_by(0, 1, 2, 32, 200);
	tm_tracer_untrack(tracer, 0, 16);
	track_by(0, 1, 3, 48, 50);
	expect_peak(0, 1, 1, 100, 1);
	expect_peak(0, 1, 2, 200, 1);
	expect_peak(0, 1, 3, 0, 0);
	track_by(0, 1, 3, 64, 51);
	expect_peak(0, 1, 1, 0, 0);
	expect_peak(0, 1, 3, 101, 2);
	cr_assert_eq(totals_of(0).peak, 301);
	cr_assert_eq(totals_of(0).peak_blocks, 3);
}

Test(tracer, peak_is_the_first_moment_of_its_bytes)
{
	track_by(0, 1, 1, 16, 100);
	track_by(0, 1, 2, 32, 0);
	expect_peak(0, 1, 2, 0, 0);
	cr_assert_eq(totals_of(0).peak_blocks, 1);
}

Test(tracer, domains_have_peaks_of_their_own)
{
	track_by(0, 1, 1, 16, 100);
	tm_tracer_untrack(tracer, 0, 16);
	track_by(1, 1, 1, 16, 10);
	expect_peak(0, 1, 1, 100, 1);
	expect_peak(1, 1, 1, 10, 1);
}

Test(tracer, exec_begins_a_new_image)
{
	struct tm_held held;

	track(16, 100);
	track(32, 11);
	held = tm_tracer_resize_begin(tracer, 0, 32);
	tm_tracer_new_epoch(tracer);
	cr_assert_eq(totals_of(0).current, 0);
	cr_assert_eq(totals_of(0).peak, 0);
	cr_assert_eq(totals_of(0).blocks, 0);
	cr_assert_eq(totals_of(0).allocations, 2);
	cr_assert_eq(totals_of(0).allocated, 111);
	cr_assert_not(tm_tracer_knows(tracer, 0, 16));
	cr_assert_null(tm_tracer_resize_cancel(tracer, &held));
	cr_assert_not(tm_tracer_knows(tracer, 0, 32));
	track(16, 7);
	cr_assert_eq(totals_of(0).peak, 7);
	expect_peak(0, 1, 1, 7, 1);
}

static bool count_block(const struct tm_block *block, void *context)
{
	cr_assert_eq(tm_tracer_account(tracer, block->account)->domain, block->domain);
	cr_assert_eq(block->time, 5);
	return ++*(int *)context < 3;
}

Test(tracer, blocks_are_visited_until_told_to_stop)
{
	int visited = 0;

	track(16, 1);
	track(32, 1);
	tm_tracer_each_block(tracer, count_block, &visited);
	cr_assert_eq(visited, 2);
	for (uint64_t i = 3; i < 9; i++)
		track(i * 16, 1);
	visited = 0;
	tm_tracer_each_block(tracer, count_block, &visited);
	cr_assert_eq(visited, 3);
}

/* A thread for each request, a block for each thread: neither events nor dead threads are remembered. */
Test(tracer, memory_does_not_grow_with_events_or_threads)
{
	size_t memory = 0;

	track_by(0, 0, 9, 8, 1000000); /* so that the peak is not made by the threads */
	tm_tracer_untrack(tracer, 0, 8);
	for (uint32_t i = 1; i < 300000; i++) {
		track_by(0, i, i % 10, 16 * i, 100);
		if (i > 50)
			tm_tracer_untrack(tracer, 0, 16 * (i - 50));
		if (i == 1000)
			memory = tm_tracer_memory(tracer);
	}
	cr_assert_eq(tm_tracer_memory(tracer), memory);
	cr_assert_lt(tm_tracer_account_count(tracer), 200);
	expect_peak(0, 0, 9, 1000000, 1);
}

/*
 * The whole against a model without any cleverness: it copies all of its numbers at each new peak.
 */
enum { DOMAINS = 3, TIDS = 2, TRACEBACKS = 4, ADDRESSES = 40, HELD = 4 };

struct naive_numbers {
	uint64_t current, blocks;
	uint64_t size[TIDS][TRACEBACKS], count[TIDS][TRACEBACKS];
};

struct naive_block {
	bool live;
	uint64_t size;
	uint32_t tid, traceback;
};

struct naive_domain {
	struct naive_numbers now, peak;
	uint64_t allocations, allocated, frees, unknown_frees;
	struct naive_block blocks[ADDRESSES];
};

struct call { /* of realloc, on its way */
	bool active;
	uint32_t domain, address;
	struct naive_block block;
	struct tm_held held;
};

static struct naive_domain naive[DOMAINS];
static struct call calls[HELD];

static void naive_count(struct naive_domain *domain, const struct naive_block *block, int sign)
{
	domain->now.current += (uint64_t)sign * block->size;
	domain->now.blocks += (uint64_t)sign;
	domain->now.size[block->tid][block->traceback] += (uint64_t)sign * block->size;
	domain->now.count[block->tid][block->traceback] += (uint64_t)sign;
}

static void naive_peak(struct naive_domain *domain)
{
	if (domain->now.current > domain->peak.current)
		domain->peak = domain->now;
}

static void naive_drop(struct naive_domain *domain, struct naive_block *block)
{
	if (block->live)
		naive_count(domain, block, -1);
	block->live = false;
}

static void naive_put(struct naive_domain *domain, uint32_t address, const struct naive_block *block)
{
	naive_drop(domain, &domain->blocks[address]);
	domain->blocks[address] = *block;
	naive_count(domain, block, 1);
	naive_peak(domain);
	domain->allocations++;
	domain->allocated += block->size;
}

static uint64_t random_state;

static uint32_t choose(uint32_t below)
{
	return (uint32_t)(tm_hash_u64(++random_state) % below);
}

static struct tm_allocation random_allocation(uint32_t domain, uint32_t address, struct naive_block *block)
{
	*block = (struct naive_block){true, choose(4) ? choose(50) : 0, choose(TIDS), choose(TRACEBACKS)};
	return (struct tm_allocation){domain, block->tid, block->traceback, 16 * address, block->size, 0};
}

static void step_track(uint32_t domain, uint32_t address)
{
	struct naive_block block;
	struct tm_allocation in = random_allocation(domain, address, &block);

	cr_assert_null(tm_tracer_track(tracer, &in));
	naive_put(&naive[domain], address, &block);
}

static void step_untrack(uint32_t domain, uint32_t address)
{
	struct naive_block *block = &naive[domain].blocks[address];

	cr_assert_eq(tm_tracer_untrack(tracer, domain, 16 * address), block->live);
	if (block->live)
		naive[domain].frees++;
	else
		naive[domain].unknown_frees++;
	naive_drop(&naive[domain], block);
}

static void step_begin(struct call *call, uint32_t domain, uint32_t address)
{
	*call = (struct call){
		.active = true, .domain = domain, .address = address, .block = naive[domain].blocks[address]};
	call->held = tm_tracer_resize_begin(tracer, domain, 16 * address);
	cr_assert_eq(call->held.known, call->block.live);
	naive[domain].blocks[address].live = false;
}

static void step_end(struct call *call)
{
	struct naive_domain *domain = &naive[call->domain];
	uint32_t address = choose(2) ? call->address : choose(ADDRESSES);
	struct naive_block block;
	struct tm_allocation in;

	switch (choose(3)) {
	case 0:
		in = random_allocation(call->domain, address, &block);
		cr_assert_null(tm_tracer_resize_end(tracer, &call->held, &in));
		domain->frees += call->block.live;
		naive_drop(domain, &call->block);
		naive_put(domain, address, &block);
		break;
	case 1:
		cr_assert_null(tm_tracer_resize_cancel(tracer, &call->held));
		if (domain->blocks[call->address].live)
			naive_drop(domain, &call->block);
		else
			domain->blocks[call->address] = call->block;
		break;
	case 2:
		tm_tracer_resize_freed(tracer, &call->held, call->domain);
		*(call->block.live ? &domain->frees : &domain->unknown_frees) += 1;
		naive_drop(domain, &call->block);
		break;
	}
	call->active = false;
}

static void step_exec(void)
{
	tm_tracer_new_epoch(tracer);
	for (uint32_t domain = 0; domain < DOMAINS; domain++) {
		memset(&naive[domain].now, 0, sizeof(naive[domain].now));
		memset(&naive[domain].peak, 0, sizeof(naive[domain].peak));
		memset(naive[domain].blocks, 0, sizeof(naive[domain].blocks));
	}
	for (uint32_t i = 0; i < HELD; i++)
		calls[i].block.live = false;
}

static void compare_totals(uint32_t number)
{
	const struct naive_domain *domain = &naive[number];
	struct tm_totals totals = totals_of(number);

	cr_assert_eq(totals.current, domain->now.current);
	cr_assert_eq(totals.blocks, domain->now.blocks);
	cr_assert_eq(totals.peak, domain->peak.current);
	cr_assert_eq(totals.peak_blocks, domain->peak.blocks);
	cr_assert_eq(totals.allocations, domain->allocations);
	cr_assert_eq(totals.allocated, domain->allocated);
	cr_assert_eq(totals.frees, domain->frees);
	cr_assert_eq(totals.unknown_frees, domain->unknown_frees);
}

static void compare_accounts(uint32_t number)
{
	const struct naive_domain *domain = &naive[number];

	for (uint32_t tid = 0; tid < TIDS; tid++) {
		for (uint32_t traceback = 0; traceback < TRACEBACKS; traceback++) {
			const struct tm_account *account = account_of(number, tid, traceback);

			cr_assert_eq(account ? account->size : 0, domain->now.size[tid][traceback]);
			cr_assert_eq(account ? account->count : 0, domain->now.count[tid][traceback]);
			expect_peak(number, tid, traceback, domain->peak.size[tid][traceback],
				    domain->peak.count[tid][traceback]);
		}
	}
}

static void random_step(uint32_t wave)
{
	uint32_t domain = choose(DOMAINS), address = choose(ADDRESSES), dice = choose(100);
	struct call *call = &calls[choose(HELD)];

	if (choose(20000) == 0)
		step_exec();
	else if (dice < 20)
		call->active ? step_end(call) : step_begin(call, domain, address);
	else if (dice < (wave % 2 ? 70 : 45))
		step_track(domain, address);
	else
		step_untrack(domain, address);
}

Test(tracer, random_events_agree_with_a_model_that_copies_at_each_peak)
{
	for (uint32_t step = 0; step < 300000; step++) {
		random_step(step / 500);
		for (uint32_t domain = 0; domain < DOMAINS; domain++) {
			compare_totals(domain);
			if (step % 8 == 0)
				compare_accounts(domain);
		}
	}
}
